//! What the tables stand on: a backend that reads strictly, keeps every byte and answers with what it was asked; and a
//! strict reader of what came back to the client.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::manifests::{classes, ingress, service};
use crate::harness::raw::{self, find};
use crate::harness::scene::HOST;
use crate::harness::weir::Weir;
use crate::harness::{eventually, until};

/// Long enough for any answer; a case that needs it all has failed.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// What a backend must have seen of a case.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Not one byte.
    Nothing,
    /// These requests, whole, byte for byte: without the lines that tell of the client, and with a chunked body as one
    /// chunk.
    Exactly(Vec<String>),
    /// No whole request; at most a beginning of this one, on a connection that is then closed: its head, and chunks that
    /// begin with this data and never the last chunk.
    Unfinished { head: String, data: String },
}

impl Seen {
    pub fn one(request: impl Into<String>) -> Self {
        Self::Exactly(vec![request.into()])
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Message {
    /// Which connection, from 0.
    pub connection: usize,
    pub bytes: Vec<u8>,
    /// Whether it was whole; if not, its connection has ended within it.
    pub whole: bool,
}

impl Message {
    pub fn target(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        text.split(' ').nth(1).unwrap_or("").to_owned()
    }
}

#[derive(Default)]
struct Log {
    connections: usize,
    messages: Vec<Message>,
    /// Bytes of messages that have begun and not ended, by connection.
    begun: Vec<Vec<u8>>,
    open: Vec<bool>,
}

/// A backend that records, and answers every whole request with its target.
#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

impl Recorder {
    pub async fn start() -> Self {
        let log: Arc<Mutex<Log>> = Arc::default();
        let recorded = log.clone();
        let address = raw::backend(move |number, stream| {
            {
                let mut log = recorded.lock().unwrap();
                log.connections += 1;
                log.begun.resize(number + 1, Vec::new());
                log.open.resize(number + 1, false);
                log.open[number] = true;
            }
            record(recorded.clone(), number, stream)
        })
        .await;
        Self { address, log }
    }

    /// Requests, and pieces of requests whose connection has ended, in the order of their ends.
    pub fn messages(&self) -> Vec<Message> {
        self.log.lock().unwrap().messages.clone()
    }

    /// Bytes of requests that have begun and are not whole.
    pub fn begun(&self) -> Vec<Vec<u8>> {
        self.log.lock().unwrap().begun.iter().filter(|bytes| !bytes.is_empty()).cloned().collect()
    }

    pub fn is_open(&self, connection: usize) -> bool {
        self.log.lock().unwrap().open[connection]
    }
}

async fn record(log: Arc<Mutex<Log>>, number: usize, mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // A reset is an end like any other here.
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            let mut log = log.lock().unwrap();
            let bytes = std::mem::take(&mut log.begun[number]);
            if !bytes.is_empty() {
                log.messages.push(Message { connection: number, bytes, whole: false });
            }
            log.open[number] = false;
            return;
        }
        let mut answers = Vec::new();
        {
            let mut log = log.lock().unwrap();
            log.begun[number].extend_from_slice(&buffer[..read]);
            while let Some(length) = message_length(&log.begun[number]) {
                let bytes: Vec<u8> = log.begun[number].drain(..length).collect();
                let message = Message { connection: number, bytes, whole: true };
                let target = message.target();
                let body = if message.bytes.starts_with(b"HEAD ") { "" } else { &*target };
                answers.extend(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", target.len()).bytes());
                log.messages.push(message);
            }
        }
        if !answers.is_empty() && stream.write_all(&answers).await.is_err() {
            return;
        }
    }
}

/// Length of the first request, if it is whole. What it says about its framing is taken at its word.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let end = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding:") {
        return Some(end + chunks(&bytes[end..])?.1);
    }
    let length = head.split("\r\ncontent-length:").nth(1).map_or(0, |rest| {
        rest.lines().next().unwrap().trim().parse::<usize>().unwrap_or_else(|error| panic!("{error}: {head:?}"))
    });
    (bytes.len() >= end + length).then_some(end + length)
}

/// Data, length and trailers of a chunked body; none if it is not whole.
fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize, String)> {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + line]).unwrap();
        let size = usize::from_str_radix(text, 16).unwrap_or_else(|_| panic!("not a chunk size: {text:?}"));
        at += line + 2;
        if size == 0 {
            let mut trailers = String::new();
            loop {
                let line = find(&bytes[at..], b"\r\n")?;
                trailers += std::str::from_utf8(&bytes[at..at + line + 2]).unwrap();
                at += line + 2;
                if line == 0 {
                    return Some((data, at, trailers));
                }
            }
        }
        data.extend_from_slice(bytes.get(at..at + size)?);
        assert_eq!(bytes.get(at + size..at + size + 2)?, b"\r\n", "a chunk does not end where it says");
        at += size + 2;
    }
}

/// A request without the lines that tell of the client, each of which must stand there once and be true; a whole chunked
/// body is one chunk.
fn plain(message: &Message, port: u16) -> Result<String, String> {
    let text = String::from_utf8_lossy(&message.bytes).into_owned();
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return Ok(text) };
    let body = &message.bytes[find(&message.bytes, b"\r\n\r\n").unwrap() + 4..];
    let host = head.lines().find_map(|line| line.strip_prefix("host: ")).ok_or(format!("no host: {head:?}"))?;
    let mut kept = String::new();
    let mut told = Vec::new();
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        let truth = match name.to_ascii_lowercase().as_str() {
            "x-forwarded-for" | "x-real-ip" => Some("127.0.0.1".to_owned()),
            "x-forwarded-proto" => Some("http".to_owned()),
            "x-forwarded-host" => Some(host.to_owned()),
            "x-forwarded-port" => Some(port.to_string()),
            "x-request-id" | "traceparent" => Some(value.to_owned()),
            _ => None,
        };
        match truth {
            Some(truth) if truth == value => told.push(name.to_ascii_lowercase()),
            Some(truth) => return Err(format!("{name} is {value:?}, not {truth:?}")),
            None => kept += &format!("{line}\r\n"),
        }
    }
    told.sort_unstable();
    let all = [
        "traceparent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
    ];
    if told != all {
        return Err(format!("the backend was told {told:?}"));
    }
    kept += "\r\n";
    if message.whole && head.to_ascii_lowercase().contains("\r\ntransfer-encoding:") {
        let (data, _, trailers) = chunks(body).unwrap();
        if !data.is_empty() {
            kept += &format!("{:x}\r\n{}\r\n", data.len(), String::from_utf8_lossy(&data));
        }
        return Ok(kept + "0\r\n" + &trailers);
    }
    Ok(kept + &String::from_utf8_lossy(body))
}

/// Weir in front of a [`Recorder`], with one worker, so that all connections share one pool.
pub struct Stage {
    pub weir: Weir,
    pub backend: Recorder,
    asked: usize,
}

impl Stage {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// With more settings.
    pub async fn with(settings: &str) -> Self {
        let backend = Recorder::start().await;
        let weir = before(backend.address, settings).await;
        Self { weir, backend, asked: 0 }
    }

    /// A target that nobody has asked for yet.
    pub fn fresh(&mut self, what: &str) -> String {
        self.asked += 1;
        format!("/{what}/{}", self.asked)
    }

    /// Judges what arrived at the backend since `before` messages, once an honest request on a new connection has been
    /// answered as it should be. `next`: the target that followed on the connection of the case, if it had to be served.
    pub async fn judge(&mut self, before: usize, seen: &Seen, next: Option<&str>) -> Result<(), String> {
        let honest = self.fresh("honest");
        let asked = format!("GET {honest} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let reply = raw::exchange(self.weir.http, asked.as_bytes(), PATIENCE).await;
        let answers = read_all(&reply.bytes, &[])?;
        if answers.len() != 1 || answers[0].status != 200 || answers[0].body != honest.as_bytes() || !reply.closed {
            return Err(format!("an honest request after it got {answers:?}"));
        }
        // What is half-way at the backend must end.
        until("no connection is left within a request", async || self.backend.begun().is_empty()).await;
        let mut messages = self.backend.messages().split_off(before);
        let position = messages.iter().position(|message| message.target() == honest && message.whole);
        let honest = messages.remove(position.ok_or("the honest request did not arrive")?);
        if let Some(next) = next {
            let last = messages.pop().filter(|last| last.whole && last.target() == next);
            last.ok_or(format!("the next request {next} did not arrive last"))?;
        }
        let port = self.weir.http.port();
        match seen {
            Seen::Nothing if messages.is_empty() => Ok(()),
            Seen::Exactly(expected) => {
                let plain: Vec<String> =
                    messages.iter().map(|message| plain(message, port)).collect::<Result<_, String>>()?;
                let whole = messages.iter().all(|message| message.whole);
                if whole && plain == *expected {
                    Ok(())
                } else {
                    Err(format!("the backend saw {plain:?}, whole: {whole}"))
                }
            }
            Seen::Unfinished { data, .. } if messages.is_empty() && data.is_empty() => Ok(()),
            Seen::Unfinished { head, data } => {
                let [only] = &messages[..] else { return Err(format!("the backend saw {messages:?}")) };
                let plain = plain(only, port)?;
                let Some(body) = plain.strip_prefix(&**head).filter(|_| !only.whole) else {
                    return Err(format!("the backend saw {plain:?}, whole: {}", only.whole));
                };
                // Chunks, whole or not, whose data begins with what was certain.
                let passed = body.split("\r\n").skip(1).step_by(2).collect::<String>();
                if !passed.starts_with(&**data) || format!("\r\n{body}").contains("\r\n0\r\n") {
                    return Err(format!("the backend saw {plain:?}"));
                }
                if only.connection == honest.connection || self.backend.is_open(only.connection) {
                    return Err("the upstream connection was used again after the doubt".to_owned());
                }
                Ok(())
            }
            Seen::Nothing => Err(format!(
                "the backend saw {:?}",
                messages.iter().map(|message| String::from_utf8_lossy(&message.bytes).into_owned()).collect::<Vec<_>>()
            )),
        }
    }

    /// Waits until a request with this in it has begun at the backend and is not whole.
    pub async fn until_begun(&self, what: &str) {
        eventually(&format!("{what:?} begun at the backend"), async || {
            let begun = self.backend.begun();
            let found = begun.iter().any(|bytes| find(bytes, what.as_bytes()).is_some());
            if found { Ok(()) } else { Err(format!("{} begun", begun.len())) }
        })
        .await;
    }
}

/// Weir with one worker and these settings in front of one address.
pub async fn before(address: SocketAddr, settings: &str) -> Weir {
    let manifests = classes() + &service("shop", &[address]) + &ingress("shop", HOST, "/", "shop");
    Weir::builder().file("main.yaml", &manifests).settings(&format!("workers: 1\n{settings}")).start().await
}

/// A response as a strict client reads it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: String,
    /// Whether its end was certain.
    pub whole: bool,
}

impl Answer {
    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(is, _)| is == name).map(|(_, value)| &**value)
    }

    /// Whether this is Weir's own answer with this status and reason.
    pub fn is_local(&self, status: u16, reason: &str) -> bool {
        self.status == status && self.whole && self.body == format!("{status} {reason}\n").as_bytes()
    }
}

/// Reads everything that came back as responses; interim ones count too. `bodiless`: positions of final answers to HEAD.
/// Only the last one may be cut off.
pub fn read_all(bytes: &[u8], bodiless: &[usize]) -> Result<Vec<Answer>, String> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut at = 0;
    let mut finals = 0;
    while at < bytes.len() {
        let text = || String::from_utf8_lossy(&bytes[at..]).into_owned();
        let Some(end) = find(&bytes[at..], b"\r\n\r\n") else { return Err(format!("no head: {:?}", text())) };
        let head = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or("");
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        let status = status.ok_or(format!("no status line: {first:?}"))?;
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or(format!("not a field: {line:?}"))?;
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        at += end + 4;
        let mut answer = Answer { status, fields, body: Vec::new(), trailers: String::new(), whole: true };
        let lengths: Vec<&str> =
            answer.fields.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| &**value).collect();
        let coded = answer.field("transfer-encoding").map(str::to_owned);
        if lengths.len() > 1 || coded.is_some() && (!lengths.is_empty() || coded.as_deref() != Some("chunked")) {
            return Err(format!("framed in two ways: {head:?}"));
        }
        let length =
            lengths.first().map(|length| length.parse::<usize>().map_err(|error| format!("{error}: {head:?}")));
        let length = length.transpose()?;
        if status >= 200 {
            finals += 1;
        }
        let has_body = status >= 200 && !matches!(status, 204 | 304) && !bodiless.contains(&(finals - 1));
        let rest = &bytes[at..];
        if !has_body {
        } else if coded.is_some() {
            match chunks(rest) {
                Some((data, used, trailers)) => {
                    (answer.body, answer.trailers) = (data, trailers);
                    at += used;
                }
                None => {
                    (answer.body, answer.whole) = (rest.to_vec(), false);
                    at = bytes.len();
                }
            }
        } else if let Some(length) = length {
            answer.whole = rest.len() >= length;
            answer.body = rest[..length.min(rest.len())].to_vec();
            at += length.min(rest.len());
        } else {
            return Err(format!("a body without a certain end: {head:?}"));
        }
        answers.push(answer);
    }
    Ok(answers)
}
