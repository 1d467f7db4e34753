//! One watch of one kind: list page by page, then follow, for ever.
//!
//! kube's own watcher does the same, but does not tell when a broken watch is followed again: without that nobody can say
//! how old the view is, or hold what belongs together until all watches are back.

use std::fmt::Debug;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, WatchParams};
use kube::core::{Resource, WatchEvent};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::overwritten::is_overwritten;
use super::pages::Pages;
use super::progress::{Fresh, Made};
use super::remote::STATUS_KINDS;
use super::stream::Stream;
use super::strip::Watched;
use super::view::{Failure, News, pause};

/// After so many seconds the API server ends a watch; it is followed again where it was. Not all of them at once: an API
/// server that is busy answers the first of twenty soon and the last late.
const WATCH: RangeInclusive<u32> = 35..=50;
/// A watch that says nothing for longer than it lasts is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// A watch that lasted no longer than this is not followed by another one at once.
const SHORT: Duration = Duration::from_secs(2);
/// How long a page of a listing, or the begin of a watch, is waited for. The API server itself gives up after 60 s.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether a kind exists by now.
const ABSENT: Duration = Duration::from_secs(4);

/// What is watched, in words for messages and for rules.
#[derive(Clone, Debug)]
pub struct Subject {
    /// As in the URL: `httproutes`.
    pub plural: String,
    /// Empty for the oldest kinds.
    pub group: String,
    /// All namespaces if none is named.
    pub namespace: Option<String>,
    /// Whether the kind has no namespaces.
    pub cluster: bool,
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
    /// The API server, for messages.
    pub server: String,
}

impl Subject {
    /// `httproutes.gateway.networking.k8s.io in namespace shop`.
    pub fn text(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        let fields = self.fields.as_ref().map(|fields| format!(" ({fields})")).unwrap_or_default();
        let place = match &self.namespace {
            Some(namespace) => format!(" in namespace {namespace}"),
            None => String::new(),
        };
        format!("{}{dot}{}{fields}{place}", self.plural, self.group)
    }
}

/// Where a watch tells what it sees.
#[derive(Clone)]
pub struct Outlet {
    /// The number of the watch.
    pub number: usize,
    /// To the view. A full channel slows the API server down, not Weir.
    pub news: mpsc::Sender<(usize, News)>,
    /// To the writer.
    pub fresh: Arc<Fresh>,
}

/// The view is gone: the process ends.
struct Closed;

impl Outlet {
    async fn say(&self, news: News) -> Result<(), Closed> {
        self.news.send((self.number, news)).await.map_err(|_| Closed)
    }
}

/// How a step ended, other than well.
enum Stop {
    /// Nobody listens any more.
    Closed,
    /// What was known is too old; list again.
    Gone,
    /// The kind does not exist.
    Absent,
    Failed(Failure),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// Watches until nobody listens any more.
pub async fn run<K>(api: Api<K>, subject: Subject, outlet: Outlet)
where
    K: Watched + Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let pages = Pages::default();
    let mut watch = Watch { api, subject, outlet, version: None, place: None, listed: false, pages, failures: 0 };
    loop {
        let step = match watch.version.take() {
            None => watch.list().await,
            Some(version) => watch.follow(version).await,
        };
        let wait = match step {
            Ok(()) => continue,
            Err(Stop::Closed) => return,
            Err(Stop::Gone) => {
                // The answer to a listing may be this, too: the next page was too old before it was read.
                if watch.version.take().is_none() {
                    watch.place = None;
                    watch.pages.too_old();
                }
                tracing::info!(
                    what = watch.subject.text(),
                    "the API server does not know any more what has happened since; listing again"
                );
                watch.fail()
            }
            Err(Stop::Absent) => {
                (watch.version, watch.place) = (None, None);
                if watch.outlet.say(News::Absent).await.is_err() {
                    return;
                }
                ABSENT.mul_f64(0.75 + 0.5 * fastrand::f64())
            }
            Err(Stop::Failed(failure)) => {
                if watch.outlet.say(News::Failed(failure)).await.is_err() {
                    return;
                }
                watch.fail()
            }
        };
        sleep(wait).await;
    }
}

struct Watch<K> {
    api: Api<K>,
    subject: Subject,
    outlet: Outlet,
    /// What to follow from; `None`: a listing comes first.
    version: Option<String>,
    /// Where a listing goes on that has begun, also when a page has not arrived.
    place: Option<String>,
    /// Whether everything was listed once.
    listed: bool,
    pages: Pages,
    /// In a row.
    failures: u32,
}

impl<K> Watch<K>
where
    K: Watched + Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    fn fail(&mut self) -> Duration {
        self.failures += 1;
        pause(self.failures, fastrand::f64())
    }

    async fn list(&mut self) -> Result<(), Stop> {
        loop {
            let parameters = ListParams {
                label_selector: self.subject.labels.clone(),
                field_selector: self.subject.fields.clone(),
                limit: self.pages.limit(),
                continue_token: self.place.clone(),
                ..ListParams::default()
            };
            let asked = Instant::now();
            let page = match timeout(PATIENCE, self.api.list(&parameters)).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    if !may_go_on(&error) {
                        self.place = None;
                    }
                    if is_broken(&error) {
                        self.ask_for_less();
                    }
                    return Err(self.stop("list", error));
                }
                Err(_) => {
                    self.ask_for_less();
                    return Err(self.silent());
                }
            };
            self.pages.took(asked.elapsed());
            self.failures = 0;
            if self.place.is_none() {
                self.outlet.say(News::Listing).await?;
            }
            for object in page.items {
                // It may have been made anew while nobody watched. At first all are new, and read by who begins to lead.
                if self.listed && has_status::<K>() {
                    let made = made(&object);
                    self.outlet.fresh.find(K::reference(object.meta()), made);
                }
                self.outlet.say(News::Seen(object.strip())).await?;
            }
            self.place = page.metadata.continue_.filter(|token| !token.is_empty());
            if self.place.is_none() {
                self.outlet.say(News::Listed).await?;
                self.listed = true;
                self.version = Some(page.metadata.resource_version.unwrap_or_default());
                return Ok(());
            }
        }
    }

    fn ask_for_less(&mut self) {
        let before = self.pages.limit();
        self.pages.late();
        if let Some(objects) = self.pages.limit().filter(|_| self.pages.limit() != before) {
            tracing::info!(
                what = self.subject.text(),
                objects,
                "a page of the listing has not arrived; smaller ones follow"
            );
        }
    }

    /// Follows from `version`, which is kept up to date also when this fails.
    async fn follow(&mut self, version: String) -> Result<(), Stop> {
        let parameters = WatchParams {
            label_selector: self.subject.labels.clone(),
            field_selector: self.subject.fields.clone(),
            timeout: Some(fastrand::u32(WATCH)),
            ..WatchParams::default()
        };
        let begun = timeout(PATIENCE, Stream::begin(&self.api, &parameters, &version)).await;
        self.version = Some(version);
        let mut events = match begun {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return Err(self.stop("watch", error)),
            Err(_) => return Err(self.silent()),
        };
        self.outlet.say(News::Alive).await?;
        let has_status = has_status::<K>();
        let begun = Instant::now();
        loop {
            let heard = match timeout(SILENCE, events.next::<K>()).await {
                Ok(heard) => heard,
                Err(_) => return Err(self.silent()),
            };
            let Some(Ok(event)) = heard else {
                // A connection that was open until now has told everything until now, but for what it was about to say.
                if events.is_between() && !matches!(heard, Some(Err(kube::Error::SerdeError(_)))) {
                    self.outlet.say(News::Alive).await?;
                }
                match heard {
                    Some(Err(error)) => return Err(self.stop("watch", error)),
                    // The end of its time, or of the connection: both are followed by another watch.
                    _ if begun.elapsed() > SHORT => {}
                    _ => sleep(self.fail()).await,
                }
                return Ok(());
            };
            self.failures = 0;
            match event {
                WatchEvent::Added(object) => {
                    self.at(object.meta());
                    if has_status {
                        self.outlet.fresh.add(K::reference(object.meta()), made(&object));
                    }
                    self.outlet.say(News::Seen(object.strip())).await?;
                }
                WatchEvent::Modified(object) => {
                    self.at(object.meta());
                    if has_status {
                        let reference = K::reference(object.meta());
                        self.outlet.fresh.touch(&reference);
                        if is_overwritten(object.meta()) {
                            self.outlet.fresh.overwritten.add(reference);
                        }
                    }
                    self.outlet.say(News::Seen(object.strip())).await?;
                }
                WatchEvent::Deleted(object) => {
                    self.at(object.meta());
                    self.outlet.say(News::Gone(K::reference(object.meta()))).await?;
                }
                WatchEvent::Bookmark(bookmark) => {
                    self.version = Some(bookmark.metadata.resource_version);
                    self.outlet.say(News::Alive).await?;
                }
                WatchEvent::Error(status) => return Err(self.stop("watch", kube::Error::Api(status))),
            }
        }
    }

    fn at(&mut self, metadata: &ObjectMeta) {
        if let Some(version) = &metadata.resource_version {
            self.version = Some(version.clone());
        }
    }

    fn silent(&self) -> Stop {
        Stop::Failed(Failure {
            text: format!("the API server at {} does not answer in time", self.subject.server),
            fix: "see whether it is overloaded, and whether the network leads to it".to_owned(),
            answered: false,
        })
    }

    fn stop(&self, verb: &str, error: kube::Error) -> Stop {
        let Subject { server, .. } = &self.subject;
        let what = self.subject.text();
        // 500 and more is what a server says that is not all there yet, or not any more.
        let answered = match &error {
            kube::Error::Api(status) => status.code < 500,
            error => matches!(error, kube::Error::SerdeError(_)),
        };
        let (text, fix) = match error {
            kube::Error::Api(status) => match status.code {
                410 => return Stop::Gone,
                404 => return Stop::Absent,
                401 => (
                    format!("the API server at {server} does not know who this is (401)"),
                    "give a valid token or client certificate (a token file is read again); in a pod, see whether its \
                     ServiceAccount still exists"
                        .to_owned(),
                ),
                403 => (format!("may not {verb} {what}: {}", status.message), self.rule()),
                code => (
                    format!("cannot {verb} {what}: {} ({code})", status.message),
                    "see the API server's log".to_owned(),
                ),
            },
            error @ kube::Error::SerdeError(_) => (
                format!("cannot read what the API server says of {what}: {error}"),
                "see whether the server is a Kubernetes API server of version 1.25 or later".to_owned(),
            ),
            error => (
                format!("the API server at {server} cannot be reached: {}", innermost(&error)),
                "start it, or correct the address and the CA (server and certificate-authority of the kubeconfig)"
                    .to_owned(),
            ),
        };
        Stop::Failed(Failure { text, fix, answered })
    }

    /// What RBAC lacks.
    fn rule(&self) -> String {
        let Subject { plural, group, namespace, cluster, .. } = &self.subject;
        let role = match namespace {
            Some(namespace) if !cluster => format!("the Role in namespace {namespace}"),
            _ => "the ClusterRole".to_owned(),
        };
        format!("add to {role}: {{apiGroups: [\"{group}\"], resources: [{plural}], verbs: [get, list, watch]}}")
    }
}

fn has_status<K: Watched>() -> bool {
    STATUS_KINDS.iter().any(|kind| kind.name == K::KIND)
}

/// What the writer is told of an object that is there.
fn made<K: Watched + Resource<DynamicType = ()>>(object: &K) -> Made {
    let metadata = object.meta();
    let untouched = metadata.resource_version.clone().filter(|_| object.is_without_status());
    Made { uid: metadata.uid.clone().unwrap_or_default(), untouched }
}

/// Whether the next page may still be had after this. An API server that refuses it otherwise would do so for ever.
fn may_go_on(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 408 | 429 | 503 | 504),
        error => !matches!(error, kube::Error::SerdeError(_)),
    }
}

/// Whether an answer has begun, and broke off. What is asked of who does not answer at all is another error of the client.
pub fn is_broken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(error) if error.is::<hyper::Error>())
}

/// The reason below all wrapping.
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reason = error;
    loop {
        // Of TLS this would be an essay with an address.
        if reason.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return "the connection was cut".to_owned();
        }
        match reason.source() {
            Some(source) => reason = source,
            None => return reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use gateway_api::apis::experimental::httproutes::HttpRoute as HTTPRoute;
    use kube::core::DeserializeGuard;
    use serde_json::{Value, json};

    use super::super::script;
    use super::*;
    use crate::model::{ObjectName, ObjectRef};

    type Routes = DeserializeGuard<HTTPRoute>;

    /// A watch of a server that gives these answers one after the other; `None`: it is silent.
    fn watch(answers: Vec<Option<(u16, String)>>) -> (Watch<Routes>, mpsc::Receiver<(usize, News)>) {
        let answers = Mutex::new(answers.into_iter());
        let client = script::client(move |_| answers.lock().expect("a lock").next().expect("an answer"));
        let subject = Subject {
            plural: "httproutes".to_owned(),
            group: String::new(),
            namespace: None,
            cluster: false,
            labels: None,
            fields: None,
            server: "http://server".to_owned(),
        };
        let (news, heard) = mpsc::channel(100);
        let outlet = Outlet { number: 0, news, fresh: Arc::default() };
        let (api, pages) = (Api::all(client), Pages::default());
        (Watch { api, subject, outlet, version: None, place: None, listed: false, pages, failures: 0 }, heard)
    }

    fn route(uid: &str, status: Option<Value>) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop", "uid": uid, "resourceVersion": "7"}, "spec": {},
            "status": status,
        })
    }

    fn page(next: &str, items: Vec<Value>) -> Option<(u16, String)> {
        let metadata = json!({"continue": next, "resourceVersion": "9"});
        Some((200, json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string()))
    }

    fn refusal(code: u16) -> Option<(u16, String)> {
        let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "No"});
        Some((code, status.to_string()))
    }

    fn words(heard: &mut mpsc::Receiver<(usize, News)>) -> Vec<&'static str> {
        let word = |(_, news)| match news {
            News::Alive => "alive",
            News::Seen(_) => "seen",
            _ => "more",
        };
        std::iter::from_fn(|| heard.try_recv().ok()).map(word).collect()
    }

    #[tokio::test]
    async fn what_was_made_anew_while_nobody_watched_is_told_by_the_next_listing_and_not_by_the_first() {
        let again = page("", vec![route("two", None)]);
        let (mut watch, _heard) = watch(vec![page("", vec![route("one", None)]), again]);
        assert!(watch.list().await.is_ok());
        assert!(watch.outlet.fresh.take().is_empty());
        assert!(watch.list().await.is_ok());
        let made = Made { uid: "two".to_owned(), untouched: Some("7".to_owned()) };
        let object = ObjectRef::new("HTTPRoute", ObjectName::new("shop", "r"));
        assert_eq!(watch.outlet.fresh.take().into_iter().collect::<Vec<_>>(), [(object, made)]);
    }

    #[tokio::test(start_paused = true)]
    async fn listing_goes_on_after_silence_and_not_after_a_refusal() {
        for (answer, goes_on) in [
            (None, true),
            (refusal(429), true),
            (refusal(503), true),
            (refusal(400), false),
            (refusal(410), false),
            (refusal(500), false),
            (Some((200, "nonsense".to_owned())), false),
        ] {
            let said = format!("{answer:?}");
            let (mut watch, _heard) = watch(vec![page("next", Vec::new()), answer]);
            assert!(watch.list().await.is_err());
            assert_eq!(watch.place.is_some(), goes_on, "{said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn view_is_not_current_when_the_last_event_broke_off_or_could_not_be_read() {
        let event = json!({"type": "ADDED", "object": route("one", None)}).to_string() + "\n";
        for (said, is_well, told) in [
            (event.clone(), true, &["alive", "seen", "alive"][..]),
            (format!("{event}{{\"type\":"), true, &["alive", "seen"]),
            (format!("{event}nonsense\n"), false, &["alive", "seen"]),
        ] {
            let (mut watch, mut heard) = watch(vec![Some((200, said.clone()))]);
            assert_eq!(watch.follow("5".to_owned()).await.is_ok(), is_well, "{said}");
            assert_eq!(words(&mut heard), told, "{said}");
            assert_eq!(watch.version.as_deref(), Some("7"), "{said}");
        }
    }
}
