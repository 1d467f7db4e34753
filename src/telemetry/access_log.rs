//! One line of JSON per request.
//!
//! A worker writes its lines into a buffer of its own and hands the buffer to the writer thread when it is large or old
//! enough; it never waits for anybody (see [`super::sink`]). Lines are pure ASCII: control bytes and everything beyond
//! ASCII are escaped, so that no client can put terminal sequences or broken encodings into the log.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::clock::{self, WallOffset};
use super::sink::{Sink, SinkSender, Target};

/// A buffer of this size is handed over at once.
const BATCH: usize = 32 * 1024;
/// Buffers that may wait for the writer.
const QUEUE: usize = 64;

/// Which requests are logged.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Mode {
    /// None.
    #[default]
    Off,
    /// This share of them, 0.0 to 1.0, chosen at random.
    Sampled(f64),
    /// All.
    Full,
}

/// The log; lines come from its [`Logger`]s.
#[derive(Debug)]
pub struct AccessLog {
    mode: Mode,
    sink: Option<Sink>,
}

impl AccessLog {
    /// Opens the target, unless the mode is [`Mode::Off`].
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn open(mode: Mode, target: Target) -> io::Result<Self> {
        let sink = match mode {
            Mode::Off => None,
            Mode::Sampled(_) | Mode::Full => Some(Sink::open("weir-access-log", target, QUEUE)?),
        };
        Ok(Self { mode, sink })
    }

    /// For one worker. The seed decides which requests are sampled.
    pub fn logger(&self, seed: u64) -> Logger {
        Logger {
            mode: self.mode,
            sender: self.sink.as_ref().map(Sink::sender),
            random: fastrand::Rng::with_seed(seed),
            buffer: Vec::new(),
            lines: 0,
            wall: clock::unix_offset(),
        }
    }

    /// A hand for asking how many lines were dropped and for reopening the file (SIGHUP); `None` when the log is off.
    pub fn control(&self) -> Option<SinkSender> {
        self.sink.as_ref().map(Sink::sender)
    }

    /// Writes what is queued, for at most this long, and ends. Says whether everything was written.
    pub fn finish(self, patience: Duration) -> bool {
        self.sink.is_none_or(|sink| sink.finish(patience))
    }
}

/// A finished request as it is logged. What is empty or `None` is left out.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// When it started, nanoseconds of the process clock.
    pub started: u64,
    /// When it was over.
    pub ended: u64,
    /// The client, behind trusted proxies.
    pub client: IpAddr,
    /// Method as sent.
    pub method: &'a str,
    /// Host that was asked for.
    pub host: &'a str,
    /// Path, with the query if that is wanted in the log.
    pub path: &'a str,
    /// For example `HTTP/1.1`.
    pub protocol: &'a str,
    /// Status sent; 0: none could be sent.
    pub status: u16,
    /// Reason code of a local reply or a broken response.
    pub reason: Option<&'a str>,
    /// The route.
    pub route: &'a str,
    /// Namespace of the Service.
    pub namespace: &'a str,
    /// The Service.
    pub service: &'a str,
    /// The color.
    pub color: &'a str,
    /// Number of the cutover that is under way.
    pub cutover: Option<u64>,
    /// Endpoint of the last attempt.
    pub endpoint: Option<SocketAddr>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the first attempt to the response head, nanoseconds.
    pub upstream: Option<u64>,
    /// Attempts made.
    pub attempts: u32,
    /// `X-Request-ID`.
    pub request_id: &'a [u8],
    /// `User-Agent`.
    pub user_agent: &'a [u8],
    /// Trace id of `traceparent`.
    pub trace_id: &'a [u8],
    /// Name asked for in the TLS handshake.
    pub sni: &'a str,
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct Logger {
    mode: Mode,
    sender: Option<SinkSender>,
    random: fastrand::Rng,
    buffer: Vec<u8>,
    lines: u64,
    wall: WallOffset,
}

impl Logger {
    /// One that logs nothing.
    pub fn off() -> Self {
        AccessLog { mode: Mode::Off, sink: None }.logger(0)
    }

    /// Whether the next request is to be logged; decides anew at every call.
    #[inline]
    pub fn wants(&mut self) -> bool {
        match self.mode {
            Mode::Off => false,
            Mode::Full => true,
            Mode::Sampled(share) => self.random.f64() < share,
        }
    }

    /// Logs a request.
    pub fn log(&mut self, entry: &Entry<'_>) {
        if self.sender.is_none() {
            return;
        }
        entry.write(&mut self.buffer, self.wall);
        self.lines += 1;
        if self.buffer.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands over what was logged so far. To be called every 100 ms or so.
    pub fn flush(&mut self) {
        self.wall = clock::unix_offset();
        let Some(sender) = self.sender.as_ref().filter(|_| self.lines > 0) else { return };
        let full = std::mem::take(&mut self.buffer);
        match sender.send(full, self.lines) {
            Ok(()) => self.buffer = Vec::with_capacity(BATCH + BATCH / 8),
            Err(mut back) => {
                back.clear();
                self.buffer = back;
            }
        }
        self.lines = 0;
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Entry<'_> {
    /// Appends the line, with its line feed.
    fn write(&self, out: &mut Vec<u8>, wall: WallOffset) {
        out.extend_from_slice(b"{\"time\":\"");
        clock::write_rfc3339(out, wall.at(self.started));
        // Writing to a Vec cannot fail.
        let _ = write!(out, "\",\"client\":\"{}\"", self.client);
        text(out, "method", self.method.as_bytes());
        text(out, "host", self.host.as_bytes());
        text(out, "path", self.path.as_bytes());
        text(out, "protocol", self.protocol.as_bytes());
        let _ = write!(out, ",\"status\":{}", self.status);
        text(out, "reason", self.reason.unwrap_or_default().as_bytes());
        text(out, "route", self.route.as_bytes());
        text(out, "namespace", self.namespace.as_bytes());
        text(out, "service", self.service.as_bytes());
        text(out, "color", self.color.as_bytes());
        if let Some(cutover) = self.cutover {
            let _ = write!(out, ",\"cutover\":{cutover}");
        }
        if let Some(endpoint) = self.endpoint {
            let _ = write!(out, ",\"endpoint\":\"{endpoint}\"");
        }
        let _ = write!(out, ",\"bytes_in\":{},\"bytes_out\":{}", self.bytes_in, self.bytes_out);
        milliseconds(out, "duration_ms", self.ended.saturating_sub(self.started));
        if let Some(upstream) = self.upstream {
            milliseconds(out, "upstream_ms", upstream);
        }
        let _ = write!(out, ",\"attempts\":{}", self.attempts);
        text(out, "request_id", self.request_id);
        text(out, "user_agent", self.user_agent);
        text(out, "trace_id", self.trace_id);
        text(out, "tls_sni", self.sni.as_bytes());
        out.extend_from_slice(b"}\n");
    }
}

fn milliseconds(out: &mut Vec<u8>, key: &str, nanoseconds: u64) {
    let micros = nanoseconds / 1_000;
    let _ = write!(out, ",\"{key}\":{}.{:03}", micros / 1_000, micros % 1_000);
}

fn text(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":\"");
    escape(out, value);
    out.push(b'"');
}

/// The inside of a JSON string (RFC 8259 section 7) in pure ASCII; bytes that are no UTF-8 become U+FFFD.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\';
    if value.iter().all(plain) {
        out.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                ' '..='~' => out.push(character as u8),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            started: 1_000,
            ended: 12_345_678,
            client: [192, 0, 2, 7].into(),
            method: "GET",
            host: "shop.test",
            path: "/a",
            protocol: "HTTP/1.1",
            status: 503,
            reason: Some("no_endpoints"),
            route: "shop/web",
            namespace: "shop",
            service: "web",
            color: "blue",
            cutover: Some(7),
            endpoint: Some("[::1]:9001".parse().unwrap()),
            bytes_in: 1,
            bytes_out: 2,
            upstream: Some(1_500_000),
            attempts: 2,
            request_id: b"abc",
            user_agent: b"curl/8",
            trace_id: b"",
            sni: "",
        }
    }

    fn parsed(entry: &Entry<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        entry.write(&mut out, clock::unix_offset());
        assert!(out.ends_with(b"}\n") && out[..out.len() - 1].iter().all(|byte| (b' '..=b'~').contains(byte)));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_line_says_everything_about_its_request() {
        let line = parsed(&entry());
        let time = line["time"].as_str().unwrap().to_owned();
        assert!(time.len() == 24 && time.ends_with('Z'));
        let expected = serde_json::json!({
            "time": time, "client": "192.0.2.7", "method": "GET", "host": "shop.test", "path": "/a",
            "protocol": "HTTP/1.1", "status": 503, "reason": "no_endpoints", "route": "shop/web", "namespace": "shop",
            "service": "web", "color": "blue", "cutover": 7, "endpoint": "[::1]:9001", "bytes_in": 1, "bytes_out": 2,
            "duration_ms": 12.344, "upstream_ms": 1.5, "attempts": 2, "request_id": "abc", "user_agent": "curl/8",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn whatever_bytes_a_client_sends_the_line_is_one_line_of_ascii_json() {
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..5_000 {
            let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            let line = parsed(&Entry { user_agent: &bytes, ..entry() });
            assert_eq!(line["user_agent"].as_str().unwrap_or_default(), String::from_utf8_lossy(&bytes));
        }
        let line = parsed(&Entry { path: "/\u{9b}2J\n\"\\\u{1f600}", user_agent: b"\x1b[31m\xff", ..entry() });
        assert_eq!(
            (&line["path"], &line["user_agent"]),
            (&"/\u{9b}2J\n\"\\\u{1f600}".into(), &"\x1b[31m\u{fffd}".into())
        );
    }

    #[test]
    fn all_lines_of_all_workers_reach_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(Mode::Full, Target::File(path.clone())).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let mut logger = log.logger(worker);
                scope.spawn(move || {
                    for _ in 0..500 {
                        assert!(logger.wants());
                        logger.log(&entry());
                    }
                });
            }
        });
        let dropped = log.control().unwrap().dropped();
        assert!(log.finish(Duration::from_secs(30)));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!((text.lines().count(), dropped), (1_500, 0));
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[test]
    fn the_mode_decides_how_many_are_logged() {
        let folder = tempfile::tempdir().unwrap();
        let open = |mode| AccessLog::open(mode, Target::File(folder.path().join("log"))).unwrap();
        let mut off = Logger::off();
        let sampled = open(Mode::Sampled(0.1));
        let mut logger = sampled.logger(1);
        assert!((0..1_000).all(|_| !off.wants()));
        let wanted = (0..10_000).filter(|_| logger.wants()).count();
        assert!((900..1_100).contains(&wanted), "{wanted} of 10,000");
    }
}
