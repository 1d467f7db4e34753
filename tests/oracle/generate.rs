//! Messages from a grammar whose every choice may go wrong, and bytes changed at random afterwards. All follows from the
//! seed.

use fastrand::Rng;

/// What follows most streams: whether it is seen as a message of its own tells where the one before it ended.
const NEXT_REQUEST: &[u8] = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n";
const NEXT_RESPONSE: &[u8] = b"HTTP/1.1 299 Next\r\nContent-Length: 0\r\n\r\n";

/// Bytes that have a meaning for some parser.
const PIVOTS: &[u8] = b"\r\n\t :;,=\"#?/@%0159afAFxX+-_<>\\^`{|}[]\0\x01\x0b\x0c\x7f\x80\xa0\xc3\xff";

/// Pieces that have a meaning for some parser.
const PHRASES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Host: b\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"0\r\n\r\n",
    b"1\r\na\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"GET / HTTP/1.1\r\nHost: c\r\n\r\n",
    b"http://",
    b", ",
];

/// One case.
pub struct Case {
    /// The stream.
    pub bytes: Vec<u8>,
    /// Where it is cut in two.
    pub cut: usize,
    /// For responses: the request was HEAD.
    pub to_head: bool,
}

/// A client's stream: one to three requests.
pub fn requests(seed: u64) -> Case {
    let mut writer = Writer::new(seed);
    for _ in 0..1 + writer.rng.usize(..3) {
        writer.request();
    }
    writer.finish(NEXT_REQUEST)
}

/// A backend's stream: interim responses and a final one.
pub fn response(seed: u64) -> Case {
    let mut writer = Writer::new(seed);
    while writer.rng.u8(..8) == 0 {
        writer.interim();
    }
    if writer.is_odd() && writer.rng.u8(..20) == 0 {
        (0..20).for_each(|_| writer.interim());
    }
    writer.response();
    writer.finish(NEXT_RESPONSE)
}

struct Writer {
    rng: Rng,
    out: Vec<u8>,
    /// One choice in this many is an odd one; 0: none is.
    oddness: u32,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        // Neighbouring seeds begin alike.
        for _ in 0..4 {
            rng.u64(..);
        }
        let oddness = [0, 40, 12, 5][rng.usize(..4)];
        Self { rng, out: Vec::new(), oddness }
    }

    fn is_odd(&mut self) -> bool {
        self.oddness > 0 && self.rng.u32(..self.oddness) == 0
    }

    fn pick<'a>(&mut self, usual: &[&'a str], odd: &[&'a str]) -> &'a str {
        let choices = if self.is_odd() { odd } else { usual };
        choices[self.rng.usize(..choices.len())]
    }

    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn end_line(&mut self) {
        let end = self.pick(&["\r\n"], &["\n", "\r", "\r\r\n", " \r\n", "\n\r\n", "\r\n "]);
        self.put(end);
    }

    fn request(&mut self) {
        if self.is_odd() {
            let before = self.pick(&["\r\n"], &["\n", "\r\n\r\n\r\n\r\n", "\r\n\r\n\r\n\r\n\r\n", " ", "\r"]);
            self.put(before);
        }
        let long = "M".repeat(33);
        let method = self.pick(
            &["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "M-SEARCH"],
            &["CONNECT", "TRACE", "get", "", "G(T", "a!#$%&'*+.^_`|~", &long, "PRI"],
        );
        self.put(method);
        let blank = self.pick(&[" "], &["  ", "\t", "", " \t"]);
        self.put(blank);
        let long = format!("/{}", "p".repeat(17 * 1024));
        let host = self.pick(
            &["a", "Shop.Test", "shop.test:80", "[::1]:8080", "x_y", "192.0.2.1:1"],
            &[
                "", "a b", "u@a", "a:b", "a:99999", "a:", "[::1", "a/b", "ä", "a,b", "a:00080", "a%20b", "~", "[v1.a]",
                "a:80:80",
            ],
        );
        let absolute = format!("http://{host}/x?y=1");
        let bare = format!("HTTP://{host}?y");
        let target = self.pick(
            &[
                "/",
                "/a",
                "/a?b=c",
                "/?",
                "/a%20b/%C3%A4?x=/?&y",
                "//a",
                "/a;b=c/../d",
                &absolute,
                &bare,
                "/%zz",
                "/a|b",
            ],
            &[
                "*",
                "a",
                "a:80",
                "",
                "/#f",
                "/a#f?x",
                "http://other/",
                "ftp://a/",
                "http://",
                "http:///x",
                "https://u@a/",
                "/<a>",
                "/{a}",
                "/\"",
                "/\\a",
                "/^`",
                "/a?<x>`",
                "/ä",
                "/a b",
                &long,
                "http://a",
            ],
        );
        self.put(target);
        let blank = self.pick(&[" "], &["  ", "\t", "", " \t"]);
        self.put(blank);
        let version = self.pick(
            &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"],
            &["HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1", "", "HTTP/1.1 "],
        );
        self.put(version);
        self.end_line();
        if !self.is_odd() {
            self.field("Host", host);
        }
        let body = match self.rng.u8(..4) {
            0 => Body::Length,
            1 if version != "HTTP/1.0" => Body::Chunked,
            _ => Body::None,
        };
        self.fields(body);
        self.end_line();
        self.body(body);
    }

    fn interim(&mut self) {
        let status = self.pick(&["100 Continue", "103 Early Hints", "102 x"], &["101 Switching Protocols", "199 "]);
        self.put("HTTP/1.1 ");
        self.put(status);
        self.end_line();
        if self.rng.bool() {
            self.field("Link", "</a>; rel=preload");
        }
        self.end_line();
    }

    fn response(&mut self) {
        if self.is_odd() {
            self.put("\r\n");
        }
        let version = self.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/1.2", "HTTP/2", "http/1.1", "ICY", ""]);
        self.put(version);
        let blank = self.pick(&[" "], &["  ", "\t", ""]);
        self.put(blank);
        let status = self.pick(
            &["200", "200", "200", "204", "206", "304", "404", "500", "599"],
            &["101", "000", "99", "600", "999", "2000", "20x", "+20", ""],
        );
        self.put(status);
        let reason = self.pick(&[" OK", " ", ""], &[" \u{e4}", " a\tb", " \0", "  ", "OK", " a\x7f"]);
        self.put(reason);
        self.end_line();
        let body = match self.rng.u8(..4) {
            0 => Body::Length,
            1 if version != "HTTP/1.0" => Body::Chunked,
            2 => Body::UntilClose,
            _ => Body::None,
        };
        if body == Body::None {
            self.field("Content-Length", "0");
        }
        self.fields(body);
        self.end_line();
        self.body(body);
    }

    fn field(&mut self, name: &str, value: &str) {
        self.put(name);
        let colon = self.pick(&[": ", ":", ":\t", ":  "], &[" :", "", ":\r\n ", "\t: ", ": \0"]);
        self.put(colon);
        self.put(value);
        let after = self.pick(&["", "", " ", "\t "], &["\0", "\x01", "\x7f", "\x0b", "\u{a0}", "\r"]);
        self.put(after);
        self.end_line();
    }

    fn fields(&mut self, body: Body) {
        let wide = "w".repeat(40 * 1024);
        let at = self.rng.u8(..4);
        for turn in 0..4 {
            if turn == at {
                match body {
                    Body::Length => {
                        let length = self.pick(
                            &["5", "5", "05", "0005"],
                            &[
                                "4",
                                "6",
                                "0",
                                "+5",
                                "-5",
                                "5, 5",
                                "5,6",
                                "0x5",
                                "",
                                "5 5",
                                "5_",
                                "18446744073709551615",
                                "18446744073709551614",
                                "18446744073709551616",
                                "99999999999999999999",
                                "٥",
                            ],
                        );
                        self.field("Content-Length", length);
                        if self.is_odd() {
                            self.field("content-length", length);
                        }
                    }
                    Body::Chunked => {
                        let coding = self.pick(
                            &["chunked", "Chunked", "CHUNKED"],
                            &[
                                "xchunked",
                                "chunked, chunked",
                                "identity, chunked",
                                "chunked, identity",
                                "gzip",
                                "\"chunked\"",
                                "chunked;q=1",
                                ",chunked",
                                "chunked,",
                                "",
                                "identity",
                                "chunked\x0b",
                                "\tchunked",
                            ],
                        );
                        self.field("Transfer-Encoding", coding);
                        if self.is_odd() {
                            self.field("Transfer-Encoding", "chunked");
                        }
                        if self.is_odd() {
                            self.field("Content-Length", "5");
                        }
                    }
                    Body::None | Body::UntilClose => {}
                }
            }
            match self.rng.u8(..12) {
                0 => {
                    let options = self.pick(
                        &["close", "keep-alive", "Upgrade", "keep-alive, x", "x"],
                        &["close, keep-alive", ",close,", "clos\u{e9}, close", "\"close\"", "keep-alive\u{e9}"],
                    );
                    self.field("Connection", options);
                }
                1 => {
                    let expectation = self.pick(&["100-continue", "100-Continue"], &["x", "100-continue, x", ""]);
                    self.field("Expect", expectation);
                }
                2 => {
                    let protocol = self.pick(&["websocket"], &["h2c", "websocket, h2c", ""]);
                    self.field("Upgrade", protocol);
                }
                3 => {
                    let name = self.pick(
                        &["X", "accept", "Cookie", "x_y", "a!#$%&'*+.^`|~", "TE", "Trailer"],
                        &["", "X Y", "X\0", "X(", "\u{e4}", " X", "Host", "X\r", "Transfer-Encoding\u{b}"],
                    );
                    self.field(name, "1");
                }
                4 | 5 => {
                    let value = self.pick(
                        &["", "a", "a  b", "a,b;c=\"d\"", "\u{e4}\u{f6}", "a\tb", "chunked", ":"],
                        &["a\0b", "a\x7f", "a\rb", "a\nb", "a\r\n b", &wide],
                    );
                    self.field("X-Value", value);
                }
                6 if self.is_odd() => {
                    let many = self.rng.usize(90..110);
                    (0..many).for_each(|_| self.put("n: 1\r\n"));
                }
                _ => {}
            }
        }
    }

    fn body(&mut self, body: Body) {
        match body {
            Body::None => {}
            Body::Length => self.put("hello"),
            Body::UntilClose => self.put("until the end"),
            Body::Chunked => self.chunks(),
        }
    }

    fn chunks(&mut self) {
        for _ in 0..self.rng.u8(..3) {
            let size = self.pick(
                &["5", "05", "0000000000000005"],
                &["+5", " 5", "0x5", "5 ", "5\t", "00000000000000005", "4", "6", "5_0", "", "ffffffffffffffff"],
            );
            self.put(size);
            self.extension();
            self.end_line();
            self.put("hello");
            self.end_line();
        }
        let last = self.pick(&["0", "00", "0000"], &["", "00000000000000000", "-0", "0 "]);
        self.put(last);
        self.extension();
        self.end_line();
        let wide = "t".repeat(5000);
        for _ in 0..self.rng.u8(..6).saturating_sub(3) {
            let name = self.pick(
                &["X-Trailer", "grpc-status", "Content-Length", "Host", "Trailer", "cookie"],
                &["", "X Y", " X", "X\0"],
            );
            let value = self.pick(&["0", "", "a b"], &["\0", &wide, "a\rb"]);
            self.field(name, value);
        }
        if self.is_odd() && self.is_odd() {
            let many = self.rng.usize(50..120);
            (0..many).for_each(|_| self.put("n: 1\r\n"));
        }
        self.end_line();
    }

    fn extension(&mut self) {
        if self.rng.u8(..5) == 0 {
            let wide = format!(";{}", "e".repeat(300));
            let extension =
                self.pick(&[";a", ";a=b", ";a=\"b c\"", ";"], &[&wide, ";a\0", ";a\n", ";a\r", " ;a", ";\x7f"]);
            self.put(extension);
        }
    }

    fn finish(mut self, next: &[u8]) -> Case {
        if self.rng.u8(..5) != 0 {
            self.out.extend_from_slice(next);
        }
        if self.oddness > 0 && self.rng.bool() {
            (0..1 + self.rng.usize(..3)).for_each(|_| self.mutate());
        }
        let cut = self.rng.usize(..=self.out.len());
        Case { cut, to_head: self.rng.u8(..6) == 0, bytes: self.out }
    }

    fn mutate(&mut self) {
        let rng = &mut self.rng;
        let at = rng.usize(..=self.out.len());
        let to = (at + rng.usize(..12)).min(self.out.len());
        let pivot = PIVOTS[rng.usize(..PIVOTS.len())];
        match rng.u8(..7) {
            0 => drop(self.out.drain(at..to)),
            1 => self.out.insert(at, pivot),
            2 => drop(self.out.splice(at..at, PHRASES[rng.usize(..PHRASES.len())].iter().copied())),
            3 => {
                let piece = self.out[at..to].to_vec();
                let place = rng.usize(..=self.out.len());
                self.out.splice(place..place, piece);
            }
            4 if rng.u8(..4) == 0 => self.out.truncate(at),
            5 if at < self.out.len() => self.out[at] ^= 1 << rng.u8(..8),
            _ if at < self.out.len() => self.out[at] = pivot,
            _ => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    Length,
    Chunked,
    UntilClose,
}
