//! The path of a request, in the order in which it happens. Reads the snapshot once, at the match; from there on
//! everything hangs off the matched rule.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;

use super::attempt::{Failed, Try, send};
use super::body::{REPLAY, RequestBody, ResponseBody};
use super::context::Context;
use super::exchange::{Exchange, Logged, Origin, Target};
use super::{mirror, reply};
use crate::model::{Balance, HashKey};
use crate::proxy::backend::balance::hash_of;
use crate::proxy::backend::{Backend, Color, Endpoint};
use crate::proxy::fault::Fault;
use crate::proxy::policy::cors::{self, Cors};
use crate::proxy::policy::{forwarding, headers, hop, path, preview, redirect, retry, rewrite, timeout};
use crate::proxy::snapshot::{CompiledFilter, CompiledRule};
use crate::proxy::wire::Name;
use crate::proxy::wire::server::Connection;
use crate::proxy::wire::timers::NEVER;
use crate::telemetry::access_log::Entry;

/// Answers a request: its response head is in the exchange afterwards, its response body is returned. `down` is the
/// client's connection if it speaks HTTP/1.
pub async fn handle(
    context: &Rc<Context>,
    origin: &Origin,
    exchange: &mut Exchange,
    down: Option<&Rc<Connection>>,
    body: RequestBody,
) -> ResponseBody {
    match respond(context, origin, exchange, down, body).await {
        Ok(body) => body,
        Err(fault) => reply::local(context, exchange, fault),
    }
}

async fn respond(
    context: &Rc<Context>,
    origin: &Origin,
    exchange: &mut Exchange,
    down: Option<&Rc<Connection>>,
    body: RequestBody,
) -> Result<ResponseBody, Fault> {
    // 1 admit
    admit(context, exchange)?;
    let arrival = forwarding::Arrival::new(
        &exchange.request.headers,
        origin.peer.ip(),
        &context.options.trusted,
        origin.tls,
        origin.local.port(),
    );
    exchange.client = arrival.client;
    remember(context, origin, exchange);
    // 2 match
    let rule = find(context, origin, exchange)?;
    // 3 guard; the ceilings, with the target below
    if let Some(policy) = &rule.cors
        && let Some(body) = share_with_pages(policy, exchange)
    {
        return Ok(body);
    }
    // 4 shape
    let random = context.rng.borrow_mut().u128(..);
    let extra = forwarding::Extra { forwarded: context.options.forwarded };
    forwarding::write(&mut exchange.request, &arrival, extra, random);
    let mut copies = mirror::Copies::new();
    if let Some(body) = shape(context, &rule.filters, &arrival, exchange, &mut copies) {
        return Ok(body);
    }
    let share = rule.pick_share(&mut context.rng.borrow_mut()).ok_or(Fault::InvalidBackend)?;
    let chosen = &rule.shares[share];
    if let Some(policy) = &chosen.cors
        && let Some(body) = share_with_pages(policy, exchange)
    {
        return Ok(body);
    }
    if let Some(body) = shape(context, &chosen.filters, &arrival, exchange, &mut copies) {
        return Ok(body);
    }
    let backend = chosen.backend.as_ref().ok_or(Fault::InvalidBackend)?;
    let color = choose_color(backend, exchange);
    let permit = backend.load.try_enter(&backend.desired.limits).ok_or(Fault::Overloaded)?;
    let color = start(context, exchange, backend, color, share, permit)?;
    let body = if copies.is_empty() { body } else { Box::pin(mirror::send(context, exchange, copies, body)).await? };
    // 5 attempt
    let body = attempt(context, &rule, exchange, down, backend, &color, body).await?;
    // 6 answer
    answer(&rule, share, exchange);
    Ok(body)
}

/// Refuses what cannot be understood in one way, and brings the path into the form that is matched and forwarded.
fn admit(context: &Context, exchange: &mut Exchange) -> Result<(), Fault> {
    let options = &context.options;
    let head = &mut exchange.request;
    let slashes = if options.merge_slashes { path::Slashes::Merge } else { path::Slashes::Keep };
    let mut normal = Vec::new();
    if path::normalise(head.path_bytes(), slashes, &mut normal)? == path::Form::Changed {
        head.set_path(std::str::from_utf8(&normal).map_err(|_| Fault::BadRequest)?);
    }
    let hop = hop::strip_request(head, context.underscores())?;
    head.trailers_wanted = hop.te_trailers;
    Ok(())
}

/// Borrows the snapshot, once.
fn find(context: &Context, origin: &Origin, exchange: &mut Exchange) -> Result<Arc<CompiledRule>, Fault> {
    let snapshot = context.published.load();
    let table = snapshot.entries.get(&origin.bind).ok_or(Fault::NoRoute)?;
    if !table.admits(origin.tls, origin.admitted.as_ref()) {
        return Err(Fault::Misdirected);
    }
    if let Some(server_name) = &origin.server_name
        && !table.covers(server_name, exchange.request.host())
    {
        return Err(Fault::Misdirected);
    }
    let matched = table.find(&exchange.request).ok_or(Fault::NoRoute)?;
    let rule = matched.rule.clone();
    exchange.prefix = matched.prefix;
    exchange.rule = Some(rule.clone());
    Ok(rule)
}

/// Decides what the answer, whoever gives it, says to pages of other origins. Returns the body of the answer to a
/// preflight.
fn share_with_pages(policy: &Arc<Cors>, exchange: &mut Exchange) -> Option<ResponseBody> {
    let preflight = cors::is_preflight(&exchange.request);
    exchange.sharing = Some(Box::new(policy.judge(&exchange.request)));
    preflight.then(|| reply::preflight(exchange))
}

/// Applies filters in written order. Returns the body of a response that one of them gave.
fn shape(
    context: &Context,
    filters: &[CompiledFilter],
    arrival: &forwarding::Arrival,
    exchange: &mut Exchange,
    copies: &mut mirror::Copies,
) -> Option<ResponseBody> {
    for filter in filters {
        match filter {
            CompiledFilter::RequestHeaders(edit) => headers::edit_request(edit, &mut exchange.request),
            // With the response.
            CompiledFilter::ResponseHeaders(_) => {}
            CompiledFilter::Rewrite(edit) => {
                let prefix = prefix_of(exchange);
                rewrite::apply(edit, prefix.as_deref(), &mut exchange.request);
            }
            CompiledFilter::Redirect(edit) => {
                let prefix = prefix_of(exchange);
                let arrived = redirect::Arrived {
                    https: forwarding::client_is_https(&exchange.request.headers, arrival),
                    port: arrival.port,
                };
                let mut location = Vec::new();
                let status = redirect::locate(edit, prefix.as_deref(), &exchange.request, arrived, &mut location);
                return Some(reply::redirect(context, exchange, status, &location));
            }
            CompiledFilter::Mirror(copy) => copies.consider(copy, context.rng.borrow_mut().u64(..)),
        }
    }
    None
}

/// The part of the path that the match covers. Copied, because what is around it changes.
fn prefix_of(exchange: &Exchange) -> Option<Box<str>> {
    exchange.request.path().get(..exchange.prefix).map(Into::into)
}

/// The effective color, unless the client may see another one and asks for it. Returns its position in the backend.
fn choose_color(backend: &Backend, exchange: &mut Exchange) -> usize {
    if backend.colors.len() < 2 {
        return 0;
    }
    let id = backend.switch.effective();
    let effective = backend.colors.iter().position(|color| color.id == id).unwrap_or(0);
    let offer = backend.switch.preview.load();
    let Some(offer) = &*offer else { return effective };
    let how = &offer.preview;
    let head = &mut exchange.request;
    let header = how.header.as_deref().and_then(|name| head.headers.get(name)).and_then(text);
    let cookies = head.headers.known_all(Name::Cookie).filter_map(text);
    let wish = preview::wish(how, header, cookies, head.host(), exchange.client);
    let colors = backend.colors.iter().map(|color| (&*color.name, color.preview_open.load(Ordering::Relaxed)));
    let chosen = preview::color_for(wish, colors, &backend.colors[effective].name, offer.active.as_deref())
        .and_then(|name| backend.colors.iter().position(|color| *color.name == *name));
    if !preview::may_choose(how, exchange.client) {
        // No application may take for allowed what was not.
        if let Some(name) = &how.header {
            head.headers.remove(name);
        }
        if let Some(name) = &how.cookie {
            let left: SmallVec<[String; 2]> = head
                .headers
                .known_all(Name::Cookie)
                .filter_map(text)
                .map(|value| preview::without_cookie(value, name).unwrap_or_else(|| value.to_owned()))
                .filter(|value| !value.is_empty())
                .collect();
            head.headers.remove_known(Name::Cookie);
            for value in left {
                head.headers.append(b"cookie", value.as_bytes());
            }
        }
    }
    chosen.unwrap_or(effective)
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Counts the request as started at a color that has an endpoint for it: the chosen one, or, so that an empty color never
/// serves while another could, any other.
fn start(
    context: &Context,
    exchange: &mut Exchange,
    backend: &Arc<Backend>,
    position: usize,
    share: usize,
    permit: crate::proxy::backend::Permit,
) -> Result<Arc<Color>, Fault> {
    let mut position = position;
    if backend.colors.len() > 1 {
        let now = context.now();
        let can_serve = |color: &Arc<Color>| color.endpoints.load().usable(now) > 0;
        if !can_serve(&backend.colors[position])
            && let Some(other) = backend.colors.iter().position(can_serve)
        {
            position = other;
        }
    }
    let color = backend.colors.get(position).ok_or(Fault::NoEndpoints)?.clone();
    context.stats.borrow_mut().started(color.series.slot(), exchange.started);
    if exchange.rule.as_ref().is_some_and(|rule| rule.retry.is_some()) {
        backend.load.asked.deposit();
    } else {
        backend.load.retries.deposit(context.options.retry_percent);
    }
    exchange.target = Some(Target { backend: backend.clone(), color: color.clone(), share, position, permit });
    Ok(color)
}

async fn attempt(
    context: &Rc<Context>,
    rule: &CompiledRule,
    exchange: &mut Exchange,
    down: Option<&Rc<Connection>>,
    backend: &Arc<Backend>,
    color: &Arc<Color>,
    mut body: RequestBody,
) -> Result<ResponseBody, Fault> {
    let defaults = timeout::Deadlines { request: None, attempt: None };
    let grpc = exchange.request.headers.known(Name::GrpcTimeout);
    let limits = timeout::effective(&rule.timeouts, defaults, grpc);
    let until = |from: u64, length: Option<Duration>| {
        length.map_or(NEVER, |length| from.saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)))
    };
    exchange.deadline = until(exchange.started, limits.request);
    let idempotent = exchange.request.is_idempotent();
    let asked = rule.retry.as_deref();
    let most = asked.and_then(|asked| asked.attempts).map_or(context.options.attempts, |more| more.saturating_add(1));
    let listed = asked.map_or(&[][..], |asked| &asked.statuses);
    if idempotent && body.length.is_some_and(|length| length <= REPLAY)
        || !listed.is_empty() && body.length.is_none_or(|length| length <= REPLAY)
    {
        body.record();
    }
    let hash = match &backend.desired.balance {
        Balance::Hash(key) => hash_key(key, exchange),
        _ => None,
    };
    let upgrade: SmallVec<[u8; 16]> = exchange.upgrade.clone();
    let mut tried: SmallVec<[Arc<Endpoint>; 4]> = SmallVec::new();
    loop {
        let now = context.now();
        let picked = color.pick(&backend.desired.balance, hash, &tried, &mut context.rng.borrow_mut(), now);
        let Some(endpoint) = picked else {
            color.streams.drop_request();
            return Err(Fault::NoEndpoints);
        };
        exchange.attempts += 1;
        exchange.endpoint = Some(endpoint.clone());
        let deadline = exchange.deadline.min(until(now, limits.attempt));
        // A deadline of the route stands in the place of the default.
        let head_deadline =
            if deadline == NEVER { until(now, Some(context.options.timeouts.response_head)) } else { deadline };
        let upgrade = (!upgrade.is_empty()).then_some(&*upgrade);
        let (tried_before, asked) = (&*tried, asked.is_some());
        let with =
            Try { context, down, backend, color, upgrade, head_deadline, listed, tried: tried_before, most, asked };
        let mut failed = retry::Failed {
            how: retry::How::Listed,
            idempotent,
            sent: true,
            replayable: false,
            attempts: exchange.attempts,
            most,
        };
        let (again, until) = match send(&with, exchange, endpoint.clone(), body).await {
            Ok(mut response) => {
                let mut again = None;
                if listed.contains(&exchange.response.status) {
                    failed.replayable = response.is_replayable();
                    again = another(context, rule, exchange, backend, failed);
                    if again.is_none() {
                        response.close();
                    }
                }
                let Some(until) = again else {
                    exchange.deadline = deadline;
                    return Ok(response);
                };
                (Box::pin(response.into_request()).await.ok_or(Fault::Internal)?, until)
            }
            Err(Failed { fault, sent, body: left }) => {
                let Some(again) = left else { return Err(fault) };
                failed.how = retry::How::Fault(fault);
                failed.sent = sent;
                failed.replayable = again.is_replayable();
                (again, another(context, rule, exchange, backend, failed).ok_or(fault)?)
            }
        };
        if until > context.now() {
            Box::pin(wait(context, exchange, down, until)).await?;
        }
        exchange.response.clear();
        exchange.content_length = None;
        exchange.first_byte = None;
        tried.push(endpoint);
        body = again;
        body.rewind();
    }
}

/// When another attempt may be made, if it may; nanoseconds of the process clock. None is begun that could not end within
/// the request's deadline: what there is by then is answered at once.
fn another(
    context: &Context,
    rule: &CompiledRule,
    exchange: &Exchange,
    backend: &Backend,
    failed: retry::Failed,
) -> Option<u64> {
    let now = context.now();
    let pause = match &rule.retry {
        Some(asked) => retry::pause(asked.backoff, context.rng.borrow_mut().u64(..)),
        None => Duration::ZERO,
    };
    let until = now.saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX));
    let withdraw = || match &rule.retry {
        Some(_) => backend.load.asked.withdraw(now),
        None => backend.load.retries.withdraw(now),
    };
    (until < exchange.deadline && retry::may_retry(failed, withdraw)).then_some(until)
}

/// Waits between two attempts. A client that goes away meanwhile ends it.
async fn wait(
    context: &Context,
    exchange: &mut Exchange,
    down: Option<&Rc<Connection>>,
    until: u64,
) -> Result<(), Fault> {
    exchange.timer.set(until, context.now());
    poll_fn(|cx| {
        if let Some(down) = down
            && down.body_is_done()
            && down.poll_gone(cx).is_ready()
        {
            return Poll::Ready(Err(Fault::ClientGone));
        }
        exchange.timer.poll(cx, || context.now()).map(Ok)
    })
    .await
}

fn hash_key(key: &HashKey, exchange: &Exchange) -> Option<u64> {
    let headers = &exchange.request.headers;
    match key {
        HashKey::Header(name) => headers.get(name).map(hash_of),
        HashKey::Cookie(name) => headers.cookie(name).map(hash_of),
        HashKey::Address => Some(match exchange.client {
            std::net::IpAddr::V4(address) => hash_of(&address.octets()),
            std::net::IpAddr::V6(address) => hash_of(&address.octets()),
        }),
    }
}

fn answer(rule: &CompiledRule, share: usize, exchange: &mut Exchange) {
    let response = &mut exchange.response;
    hop::strip_response(response);
    if response.status == 101 {
        // The client has to be told which protocol it has got (RFC 9110 section 7.8).
        response.headers.set("upgrade", &exchange.upgrade);
    }
    if let Some(sharing) = &exchange.sharing {
        sharing.write(response);
    }
    for filter in rule.filters.iter().chain(&rule.shares[share].filters) {
        if let CompiledFilter::ResponseHeaders(edit) = filter {
            headers::edit_response(edit, response);
        }
    }
}

/// Keeps what the access log shows and later steps change.
fn remember(context: &Context, origin: &Origin, exchange: &mut Exchange) {
    if !context.log.borrow_mut().wants() {
        return;
    }
    let head = &exchange.request;
    let mut path = head.path().to_owned();
    if let Some(query) = head.query() {
        path.push('?');
        path.push_str(query);
    }
    exchange.logged =
        Some(Box::new(Logged { host: head.authority().to_owned(), path, server_name: origin.server_name.clone() }));
}

/// Writes a finished exchange to the access log.
pub(super) fn log(context: &Context, exchange: &Exchange, ended: u64) {
    let Some(logged) = &exchange.logged else { return };
    let target = exchange.target.as_ref();
    let service = target.map(|target| &target.backend.key.service);
    let headers = &exchange.request.headers;
    let trace = headers.known(Name::Traceparent).and_then(|value| value.get(3..35)).unwrap_or_default();
    context.log.borrow_mut().log(&Entry {
        started: exchange.started,
        ended,
        client: exchange.client,
        method: exchange.request.method(),
        host: &logged.host,
        path: &logged.path,
        protocol: exchange.request.version.text(),
        status: exchange.response.status,
        reason: exchange.fault.map(Fault::code),
        route: exchange.rule.as_ref().map_or("", |rule| &rule.name),
        namespace: service.map_or("", |service| &service.namespace),
        service: service.map_or("", |service| &service.name),
        color: target.map_or("", |target| &target.color.name),
        cutover: None,
        endpoint: exchange.endpoint.as_ref().map(|endpoint| endpoint.address),
        bytes_in: exchange.bytes_in,
        bytes_out: exchange.bytes_out,
        upstream: exchange.first_byte.map(|at| at - exchange.started),
        attempts: exchange.attempts,
        request_id: headers.known(Name::XRequestId).unwrap_or_default(),
        user_agent: headers.known(Name::UserAgent).unwrap_or_default(),
        trace_id: trace,
        sni: logged.server_name.as_deref().unwrap_or(""),
    });
}
