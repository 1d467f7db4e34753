# Sourced by tests/cluster/run and tests/conformance/run: how the Go programs of the tests are built.

fail() { echo "${0##*/tests/}: $1" >&2; exit 70; }

command -v go >/dev/null || fail "Go 1.26 or later is missing; the test cluster is built with it"

# No C compiler and no paths of this machine in what is built; the Go that is here, never a downloaded one.
export GOTOOLCHAIN=local CGO_ENABLED=0
# Kept with Cargo's results; Go's own cache (GOCACHE) knows what has to be built again.
out=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "${BASH_SOURCE[0]}")/../../target}")/cluster
mkdir -p "$out"

# build NAME FOLDER LINKER-FLAGS PACKAGE: one at a time, for two runs at once would only build the same thing twice.
build() {
  [[ -x $out/$1 ]] || echo "rig: building $1 (Kubernetes takes some minutes the first time)" >&2
  local verb=(build)
  [[ $1 == *.test ]] && verb=(test -c)
  (
    flock 9
    cd "$2" &&
      go "${verb[@]}" -trimpath -buildvcs=false -ldflags "-s -w $3" -o "$out/$1" "$4"
  ) 9>"$out/lock" || fail "$1 cannot be built with $(go version 2>&1 | head -1)"
}
