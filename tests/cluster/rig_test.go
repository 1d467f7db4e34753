package main

import (
	"context"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTheLongestPrefixOfAnImageWins(t *testing.T) {
	folder := t.TempDir()
	binary := func(name string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	table := imageTable{}
	for _, entry := range []string{"example.com/echo=" + binary("echo"), "example.com/echo-advanced=" + binary("advanced"), "example.com/=" + binary("any")} {
		if err := table.add(entry); err != nil {
			t.Fatal(err)
		}
	}
	for image, want := range map[string]string{"example.com/echo:v1": "echo", "example.com/echo-advanced:v1": "advanced", "example.com/other": "any"} {
		if got, ok := table.binary(image); !ok || filepath.Base(got) != want {
			t.Errorf("%s runs %s, not %s", image, got, want)
		}
	}
	if _, ok := table.binary("example.org/echo"); ok {
		t.Error("an image that nobody named has a binary")
	}
	for _, entry := range []string{"", "name", "name=", "=" + folder, "name=" + folder, "name=" + folder + "/absent"} {
		if err := table.add(entry); err == nil {
			t.Errorf("the entry '%s' is taken", entry)
		}
	}
}

func written(t *testing.T, book *logbook, query string) string {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	q, err := parseLogQuery(values, time.Unix(100, 0))
	if err != nil {
		t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	book.write(context.Background(), recorder, q)
	return recorder.Body.String()
}

func TestALogIsGivenAsItIsAskedFor(t *testing.T) {
	book := newLogbook()
	for second, text := range []string{"zero", "one", "two"} {
		book.add(time.Unix(int64(second), 0), text)
	}
	for query, want := range map[string]string{
		"":                               "zero\none\ntwo\n",
		"tailLines=1":                    "two\n",
		"tailLines=0":                    "",
		"tailLines=9":                    "zero\none\ntwo\n",
		"sinceTime=1970-01-01T00:00:01Z": "one\ntwo\n",
		"sinceTime=1970-01-01T00:00:01Z&tailLines=1": "two\n",
		"sinceSeconds=98":             "two\n",
		"limitBytes=6":                "zero\no",
		"tailLines=1&timestamps=true": "1970-01-01T00:00:02.000000000Z two\n",
	} {
		if got := written(t, book, query); got != want {
			t.Errorf("%s gives %q, not %q", query, got, want)
		}
	}
	for _, query := range []url.Values{{"follow": {"maybe"}}, {"tailLines": {"few"}}, {"sinceTime": {"noon"}}} {
		if _, err := parseLogQuery(query, time.Now()); err == nil {
			t.Errorf("%v is taken", query)
		}
	}
}

func TestAFollowedLogEndsWithItsRun(t *testing.T) {
	book := newLogbook()
	book.add(time.Now(), "before")
	recorder := httptest.NewRecorder()
	ended := make(chan struct{})
	go func() {
		book.write(context.Background(), recorder, logQuery{follow: true, tail: -1})
		close(ended)
	}()
	book.add(time.Now(), "after")
	book.close()
	<-ended
	if got := recorder.Body.String(); got != "before\nafter\n" {
		t.Errorf("followed: %q", got)
	}
}

func TestALongLogKeepsItsEnd(t *testing.T) {
	book := newLogbook()
	line := string(make([]byte, 1<<20))
	for range 20 {
		book.add(time.Now(), line)
	}
	book.add(time.Now(), "end")
	lines, next, _ := book.after(0)
	if next != 21 || len(lines) > 10 || lines[len(lines)-1].text != "end" {
		t.Errorf("%d lines of %d are kept", len(lines), next)
	}
}
