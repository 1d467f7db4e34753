//! Copies of requests that go elsewhere and whose answers are thrown away. A copy never delays and never fails the
//! request it was made of.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::attempt::{Try, send as send_attempt};
use super::body::{REPLAY, RequestBody};
use super::context::Context;
use super::exchange::{Exchange, Running};
use crate::proxy::backend::Backend;
use crate::proxy::fault::Fault;
use crate::proxy::policy::mirror::sampled;
use crate::proxy::snapshot::CompiledMirror;
use crate::proxy::wire::pump::BodySource;

/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The backends that get a copy of one request.
#[derive(Default)]
pub(super) struct Copies(SmallVec<[Arc<Backend>; 2]>);

impl Copies {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a copy if this request is one of the share that is copied.
    pub(super) fn consider(&mut self, mirror: &CompiledMirror, random: u64) {
        if let Some(backend) = &mirror.backend
            && sampled(mirror.numerator, mirror.denominator, random)
        {
            self.0.push(backend.clone());
        }
    }
}

/// Starts the copies. A body is copied when its length is known and at most [`REPLAY`] bytes; it is then read as a whole
/// first. Requests with other bodies are not copied. Returns the body for the request itself.
pub(super) async fn send(
    context: &Rc<Context>,
    exchange: &Exchange,
    copies: Copies,
    mut body: RequestBody,
) -> Result<RequestBody, Fault> {
    let bytes = if body.is_empty() {
        Bytes::new()
    } else {
        match body.length {
            Some(length) if length <= REPLAY => read_whole(&mut body, length as usize).await?,
            _ => return Ok(body),
        }
    };
    for backend in copies.0 {
        let mut copy = Running::new(context);
        copy.request.copy_from(&exchange.request);
        context.spawn(deliver(context.clone(), copy, backend, body_of(context, &bytes)));
    }
    Ok(body_of(context, &bytes))
}

fn body_of(context: &Rc<Context>, bytes: &Bytes) -> RequestBody {
    if bytes.is_empty() { RequestBody::empty(context) } else { RequestBody::bytes(context, bytes.clone()) }
}

async fn read_whole(body: &mut RequestBody, length: usize) -> Result<Bytes, Fault> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        match std::future::poll_fn(|cx| body.poll_read(cx, &mut bytes[at..])).await? {
            0 => return Err(Fault::BadRequest),
            read => at += read,
        }
    }
    Ok(bytes.into())
}

async fn deliver(context: Rc<Context>, mut copy: Running, backend: Arc<Backend>, body: RequestBody) {
    let now = context.now();
    let Some(color) = backend.effective().cloned() else { return };
    let Some(_permit) = backend.load.try_enter(&backend.desired.limits) else { return };
    let picked = color.pick(&backend.desired.balance, None, &[], &mut context.rng.borrow_mut(), now);
    let Some(endpoint) = picked else { return };
    let deadline = now + PATIENCE.as_nanos() as u64;
    let with = Try {
        context: &context,
        down: None,
        backend: &backend,
        color: &color,
        upgrade: None,
        head_deadline: deadline,
        listed: &[],
        tried: &[],
        most: 1,
        asked: false,
    };
    let Ok(mut answer) = send_attempt(&with, &mut copy, endpoint, body).await else { return };
    let mut buffer = vec![0; 8 * 1024];
    let finish = async {
        while !answer.is_over() {
            match std::future::poll_fn(|cx| answer.poll_read(cx, &mut buffer)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, finish).await;
}
