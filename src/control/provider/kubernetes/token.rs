//! Who this is, by the token in a file that somebody else writes anew before it expires; in a pod that is the kubelet.
//!
//! kube's client reads such a file too, but only once a minute, whatever the API server says. Here it is read more often,
//! and at once after the API server has refused what was in it. What was read last stays in use while there is no better.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use kube::Config;
use tower::{Layer, Service};

/// Between two looks at the file.
const READ: Duration = Duration::from_secs(10);

/// A token that may change.
#[derive(Clone)]
pub struct Token(Arc<Mutex<Held>>);

struct Held {
    path: PathBuf,
    header: HeaderValue,
    /// When to look next.
    due: Instant,
    /// The last look was in vain, and this was told.
    lost: bool,
}

impl Token {
    /// Takes the file out of what kube's client looks after; `None`: there is none, or something else says who this is.
    ///
    /// # Errors
    /// When it cannot be read, or has no token.
    pub fn take(config: &mut Config, now: Instant) -> Result<Option<Self>, String> {
        let who = &mut config.auth_info;
        // In this order kube's client looks at them.
        if who.auth_provider.is_some() || who.token.is_some() || (who.username.is_some() && who.password.is_some()) {
            return Ok(None);
        }
        let Some(path) = who.token_file.take().map(PathBuf::from) else { return Ok(None) };
        // The last that kube's client looks at, which now it would reach.
        who.exec = None;
        let header = read(&path)?;
        Ok(Some(Self(Arc::new(Mutex::new(Held { path, header, due: now + READ, lost: false })))))
    }

    fn header(&self, now: Instant) -> HeaderValue {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.due <= now {
            held.due = now + READ;
            match read(&held.path) {
                Ok(header) => (held.header, held.lost) = (header, false),
                Err(problem) => {
                    if !std::mem::replace(&mut held.lost, true) {
                        tracing::warn!("{problem}; the token that was read last stays in use");
                    }
                }
            }
        }
        held.header.clone()
    }

    /// The API server does not take `header`. What is in the file by now may be better.
    fn refused(&self, header: &HeaderValue, now: Instant) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.header == *header {
            held.due = now;
        }
    }
}

fn read(path: &Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the token file {} cannot be read: {error}", path.display()))?;
    let token = text.trim();
    let header = (!token.is_empty()).then(|| HeaderValue::try_from(format!("Bearer {token}")).ok()).flatten();
    let mut header = header.ok_or_else(|| format!("the token file {} has no token", path.display()))?;
    header.set_sensitive(true);
    Ok(header)
}

impl<S> Layer<S> for Token {
    type Service = Bearer<S>;

    fn layer(&self, inner: S) -> Bearer<S> {
        Bearer { token: self.clone(), inner }
    }
}

/// Says who this is with every request.
pub struct Bearer<S> {
    token: Token,
    inner: S,
}

impl<S, A, B> Service<Request<A>> for Bearer<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let header = self.token.header(Instant::now());
        request.headers_mut().insert(AUTHORIZATION, header.clone());
        Answer { token: self.token.clone(), header, inner: self.inner.call(request) }
    }
}

/// Waits for the answer, to see whether the token was good.
pub struct Answer<F> {
    token: Token,
    header: HeaderValue,
    inner: F,
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(Pin::new(&mut self.inner).poll(context));
        if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED) {
            self.token.refused(&self.header, Instant::now());
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> Config {
        let mut config = Config::new("https://192.0.2.1".parse().expect("an address"));
        config.auth_info.token_file = Some(path.display().to_string());
        config
    }

    #[test]
    fn token_that_is_refused_is_read_again_at_once_and_one_that_is_not_soon() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, now) = (folder.path().join("token"), Instant::now());
        std::fs::write(&path, "one\n").expect("written");
        let mut config = config(&path);
        let token = Token::take(&mut config, now).expect("a token").expect("of a file");
        assert!(config.auth_info.token_file.is_none(), "kube's client reads it, too");
        std::fs::write(&path, "two").expect("written");
        let one = token.header(now);
        assert_eq!((&one, one.is_sensitive()), (&HeaderValue::from_static("Bearer one"), true));
        token.refused(&one, now);
        assert_eq!(token.header(now), "Bearer two");
        std::fs::write(&path, "three").expect("written");
        token.refused(&one, now);
        assert_eq!(token.header(now), "Bearer two", "an older one was refused");
        assert_eq!(token.header(now + READ), "Bearer three");
    }

    #[test]
    fn token_stays_in_use_while_the_file_has_no_better() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, now) = (folder.path().join("token"), Instant::now());
        std::fs::write(&path, "").expect("written");
        let problem = Token::take(&mut config(&path), now).err();
        assert_eq!(problem, Some(format!("the token file {} has no token", path.display())));
        std::fs::write(&path, "one").expect("written");
        let token = Token::take(&mut config(&path), now).expect("a token").expect("of a file");
        std::fs::write(&path, "").expect("written");
        assert_eq!(token.header(now + READ), "Bearer one");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(token.header(now + 2 * READ), "Bearer one");
        std::fs::write(&path, "two").expect("written");
        assert_eq!(token.header(now + 3 * READ), "Bearer two");
    }

    #[test]
    fn command_is_not_asked_where_there_is_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "one").expect("written");
        let mut config = config(&path);
        let command = serde_json::json!({ "command": "/nowhere/login", "interactiveMode": "Never" });
        config.auth_info.exec = Some(serde_json::from_value(command).expect("a command"));
        assert!(Token::take(&mut config, Instant::now()).expect("a token").is_some());
        assert!(config.auth_info.exec.is_none(), "kube's client would run it");
    }

    #[test]
    fn what_kube_looks_at_first_stays_its_own() {
        let mut config = config(Path::new("/nowhere"));
        config.auth_info.token = Some("inline".to_owned().into());
        assert!(Token::take(&mut config, Instant::now()).expect("nothing wrong").is_none());
        assert!(config.auth_info.token_file.is_some());
    }
}
