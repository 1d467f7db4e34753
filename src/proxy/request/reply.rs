//! Heads on their way out, and the answers that Weir makes itself.

use std::rc::Rc;
use std::task::Context as Task;
use std::time::SystemTime;

use bytes::Bytes;

use super::body::ResponseBody;
use super::context::Context;
use super::exchange::Exchange;
use crate::proxy::fault::Fault;
use crate::proxy::policy::hop;
use crate::proxy::wire::pump::{Coding, Out};
use crate::proxy::wire::server::Connection;
use crate::proxy::wire::{Name, RequestHead, ResponseHead, Version};

/// Writes the head of a request to a backend.
pub fn write_request(out: &mut Out<'_>, head: &RequestHead, coding: Coding, upgrade: Option<&[u8]>) {
    head.write_start(out);
    head.headers.write_to(out);
    match coding {
        Coding::Length(length) => {
            out.put(b"content-length: ");
            out.put_decimal(length);
            out.put(b"\r\n");
        }
        Coding::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
        // These methods usually have a body: its absence is said (RFC 9110 section 8.6).
        Coding::None if head.usually_has_body() => out.put(b"content-length: 0\r\n"),
        Coding::None | Coding::Raw => {}
    }
    if head.trailers_wanted {
        out.put(b"te: trailers\r\n");
    }
    if let Some(protocol) = upgrade {
        out.put(b"connection: upgrade\r\nupgrade: ");
        out.put(protocol);
        out.put(b"\r\n");
    } else if head.trailers_wanted {
        out.put(b"connection: te\r\n");
    }
    out.put(b"\r\n");
}

/// How the connection goes on after a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// It is kept; said only where it is not the rule (HTTP/1.0).
    Keep {
        /// Whether it must be said.
        said: bool,
    },
    /// It is closed.
    Close,
    /// It becomes a tunnel.
    Upgrade,
}

/// Writes the head of a response to an HTTP/1 client.
pub fn write_head(out: &mut Out<'_>, head: &ResponseHead, coding: Coding, length: Option<u64>, after: After) {
    out.put(b"HTTP/1.1 ");
    out.put_decimal(u64::from(head.status));
    out.put(b" ");
    let reason = http::StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason());
    out.put(reason.unwrap_or("").as_bytes());
    out.put(b"\r\n");
    head.headers.write_to(out);
    match (coding, length) {
        (Coding::Length(length), _) | (Coding::None, Some(length)) => {
            out.put(b"content-length: ");
            out.put_decimal(length);
            out.put(b"\r\n");
        }
        (Coding::Chunked, _) => out.put(b"transfer-encoding: chunked\r\n"),
        (Coding::None | Coding::Raw, _) => {}
    }
    match after {
        After::Keep { said: true } => out.put(b"connection: keep-alive\r\n"),
        After::Keep { said: false } => {}
        After::Close => out.put(b"connection: close\r\n"),
        After::Upgrade => out.put(b"connection: upgrade\r\n"),
    }
    out.put(b"\r\n");
}

/// Passes an interim response on to a client that knows them.
pub(super) fn forward_interim(down: &Rc<Connection>, cx: &mut Task<'_>, version: Version, head: &mut ResponseHead) {
    if version != Version::Http11 {
        return;
    }
    hop::strip_response(head);
    let mut buffer = [0; 4096];
    let mut out = Out::new(&mut buffer);
    out.put(b"HTTP/1.1 ");
    out.put_decimal(u64::from(head.status));
    out.put(b" ");
    let reason = http::StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason());
    out.put(reason.unwrap_or("").as_bytes());
    out.put(b"\r\n");
    head.headers.write_to(&mut out);
    out.put(b"\r\n");
    if let Some(length) = out.written() {
        // A client that cannot be written to is noticed with the final response.
        let _ = down.send_interim(cx, &buffer[..length]);
    }
}

/// Weir's own answer to something that was not understood as a request.
pub fn refuse(context: &Context, exchange: &mut Exchange, fault: Fault) -> ResponseBody {
    local(context, exchange, fault)
}

/// Weir's own answer to a request that failed.
pub(super) fn local(context: &Context, exchange: &mut Exchange, fault: Fault) -> ResponseBody {
    exchange.fault = Some(fault);
    if fault.status() == 0 || fault == Fault::ClientGone {
        exchange.response.clear();
        exchange.response.status = 0;
        return ResponseBody::Empty;
    }
    if exchange.is_grpc() {
        return grpc(context, exchange, fault);
    }
    start(exchange, fault.status());
    let headers = &mut exchange.response.headers;
    headers.append(b"content-type", b"text/plain; charset=utf-8");
    if context.options.reason_header {
        headers.append(b"x-weir-reason", fault.code().as_bytes());
    }
    if let Some(pause) = fault.retry_after() {
        headers.append(b"retry-after", pause.as_secs().max(1).to_string().as_bytes());
    }
    if fault == Fault::MethodNotAllowed {
        // RFC 9110 section 15.5.6: a 405 says what is allowed.
        headers.append(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    body(exchange, format!("{} {}\n", fault.status(), fault.code()))
}

/// A failure as gRPC clients understand it: in trailers (here: a response without a body), with the status that the
/// gRPC documentation gives for the HTTP status; but a route without a usable backend is `UNAVAILABLE` (API reference of
/// GRPCRoute, `backendRefs`).
fn grpc(context: &Context, exchange: &mut Exchange, fault: Fault) -> ResponseBody {
    let code = match fault.status() {
        _ if fault == Fault::InvalidBackend => "14",
        400 | 405 | 414 | 417 | 431 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        408 | 504 => "4",
        413 => "8",
        500 => "13",
        _ => "14",
    };
    start(exchange, 200);
    let headers = &mut exchange.response.headers;
    headers.append(b"content-type", b"application/grpc");
    headers.append(b"grpc-status", code.as_bytes());
    headers.append(b"grpc-message", fault.code().as_bytes());
    if context.options.reason_header {
        headers.append(b"x-weir-reason", fault.code().as_bytes());
    }
    exchange.content_length = Some(0);
    ResponseBody::Empty
}

/// A redirect that a route asked for.
pub(super) fn redirect(_: &Context, exchange: &mut Exchange, status: u16, location: &[u8]) -> ResponseBody {
    start(exchange, status);
    exchange.response.headers.append(b"location", location);
    exchange.content_length = Some(0);
    ResponseBody::Empty
}

/// The answer to a browser that asks what a page may send.
pub(super) fn preflight(exchange: &mut Exchange) -> ResponseBody {
    start(exchange, 204);
    if let Some(sharing) = &exchange.sharing {
        sharing.write_preflight(&exchange.request, &mut exchange.response);
    }
    exchange.content_length = None;
    ResponseBody::Empty
}

/// Begins an answer of Weir's own. Pages may read it like one of the backend's: a page that must not know why its request
/// failed cannot say so to its user either.
fn start(exchange: &mut Exchange, status: u16) {
    exchange.response.clear();
    exchange.response.status = status;
    if let Some(sharing) = &exchange.sharing {
        sharing.write(&mut exchange.response);
    }
    exchange
        .response
        .headers
        .append(Name::Date.text().as_bytes(), httpdate::fmt_http_date(SystemTime::now()).as_bytes());
}

fn body(exchange: &mut Exchange, text: String) -> ResponseBody {
    exchange.content_length = Some(text.len() as u64);
    if exchange.request.is_head() { ResponseBody::Empty } else { ResponseBody::Bytes(Bytes::from(text)) }
}
