//! Objects from an API server: one watch per kind (and namespace), joined into one view, told to the control loop.
//!
//! The only room that knows kube's client. It runs on a thread of its own, so that reading ten thousand objects holds up
//! nobody. The API server may be away as long as it likes: what was seen stays served, and [`Age`] says how old it is.

mod apply;
mod channel;
mod client;
mod events;
mod infrastructure;
mod lease;
mod listing;
mod overwritten;
mod pages;
mod progress;
mod queue;
mod remote;
#[cfg(test)]
mod script;
mod service;
mod status;
mod stream;
mod strip;
#[cfg(test)]
mod tests;
mod token;
mod view;
mod watch;
mod writer;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_api::apis::experimental::httproutes::HttpRoute as HTTPRoute;
use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy as BackendTLSPolicy;
use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::grpcroutes::GrpcRoute as GRPCRoute;
use gateway_api::apis::standard::listenersets::ListenerSet;
use gateway_api::apis::standard::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::tlsroutes::TlsRoute as TLSRoute;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::Api;
use kube::client::ClientBuilder;
use kube::core::{ClusterResourceScope, DeserializeGuard, NamespaceResourceScope, Resource};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::age::Age;
use super::feed;
use crate::control::translate::stream_objects::{TCPRoute, UDPRoute};
use crate::drain::DrainWatch;
use progress::Fresh;
use remote::{Kind, Remote};
use strip::Watched;
use token::Token;
use view::{News, View};
use watch::{Outlet, Subject};

pub use client::{KubernetesError, in_pod};
pub use events::Told;
pub use service::{AskError, Asked, Standing, Wish, ask};
pub use writer::{Colored, Sources, Writer};

/// News that may wait for the view. Beyond it the API server is read more slowly.
const WAITING: usize = 4_096;
/// Between two lines about an API server that is away, and about a first listing that takes long.
const REMIND: Duration = Duration::from_secs(30);

/// What is watched, and how.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// A file; otherwise `KUBECONFIG`, in a pod its service account, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces; none named: all.
    pub namespaces: Vec<String>,
    /// Label selector of what asks to be served: Ingresses, Gateways, ListenerSets and routes of every kind.
    pub selector: Option<String>,
    /// The Lease whose holder writes, in the namespace of the pod or of the kubeconfig.
    pub lease: String,
}

/// A view of a cluster. It is kept up to date until the process ends.
#[derive(Debug)]
pub struct Kubernetes {
    age: Arc<Age>,
    server: String,
    config: Config,
    scope: Scope,
    experimental: bool,
    fresh: Arc<Fresh>,
}

impl Kubernetes {
    /// Begins to watch.
    ///
    /// # Errors
    /// When nothing says where the API server is and who this is. That it cannot be reached is no error: it may be later.
    pub fn watch(scope: &Scope) -> Result<(Self, feed::Receiver), KubernetesError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = runtime.block_on(client::config(scope.kubeconfig.as_deref()))?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let wrong = |problem: String| KubernetesError::Client { server: server.clone(), problem };
        let entered = runtime.enter();
        let client = connect(config.clone()).map_err(wrong)?;
        drop(entered);
        let experimental = runtime.block_on(channel::is_experimental(&Remote::new(client.clone())));
        let age = Arc::new(Age::default());
        let (sender, batches) = feed::channel();
        let watches = watches(&client, scope, &server);
        let fresh = Arc::new(Fresh::default());
        let told = (server.clone(), age.clone(), fresh.clone());
        std::thread::Builder::new()
            .name("weir-kubernetes".to_owned())
            .spawn(move || run(&runtime, watches, &told.0, &told.1, &told.2, &sender))?;
        Ok((Self { age, server, config, scope: scope.clone(), experimental, fresh }, batches))
    }

    /// Begins to write what is to be said of objects, whenever this one leads.
    ///
    /// # Errors
    /// When there is no thread or no client to be had.
    pub fn write(&self, sources: Sources, drain: DrainWatch) -> Result<Writer, KubernetesError> {
        let namespace = std::env::var("POD_NAMESPACE").ok().filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or_else(|| self.config.default_namespace.clone());
        let client = || match connect(self.config.clone()) {
            Ok(client) => Ok((client, namespace)),
            Err(problem) => Err(KubernetesError::Client { server: self.server.clone(), problem }),
        };
        Writer::start(client, &self.scope, sources, self.fresh.clone(), drain)
    }

    /// How old the view may be.
    pub fn age(&self) -> &Arc<Age> {
        &self.age
    }

    /// Whether the installed Gateway API is of the experimental channel, as it was at the start.
    pub fn experimental(&self) -> bool {
        self.experimental
    }

    /// The API server's address.
    pub fn server(&self) -> &str {
        &self.server
    }
}

fn connect(mut config: Config) -> Result<Client, String> {
    // There is one provider of cryptography in this process; the client takes the process's own. It may be set already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let token = Token::take(&mut config, Instant::now())?;
    let builder = ClientBuilder::try_from(config).map_err(|error| error.to_string())?;
    Ok(match token {
        Some(token) => builder.with_layer(&token).build(),
        None => builder.build(),
    })
}

/// A watch that is still to be started.
struct Start {
    what: String,
    start: Box<dyn FnOnce(Outlet) + Send>,
}

fn start<K>(api: Api<K>, subject: Subject) -> Start
where
    K: Watched + Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let what = subject.text();
    let start = Box::new(move |outlet| drop(tokio::spawn(watch::run(api, subject, outlet))));
    Start { what, start }
}

/// Every watch of a scope. What is cluster-wide is watched as a whole in any case.
fn watches(client: &Client, scope: &Scope, server: &str) -> Vec<Start> {
    struct Plan<'a> {
        client: &'a Client,
        scope: &'a Scope,
        server: &'a str,
        starts: Vec<Start>,
    }

    impl Plan<'_> {
        fn subject<K: Resource<DynamicType = ()>>(&self) -> Subject {
            Subject {
                plural: K::plural(&()).into_owned(),
                group: K::group(&()).into_owned(),
                namespace: None,
                cluster: true,
                labels: None,
                fields: None,
                server: self.server.to_owned(),
            }
        }

        fn cluster<K>(&mut self)
        where
            K: Watched + Resource<DynamicType = (), Scope = ClusterResourceScope>,
            K: DeserializeOwned + Clone + Debug + Send + Sync + 'static,
        {
            let subject = self.subject::<K>();
            self.starts.push(start(Api::<K>::all(self.client.clone()), subject));
        }

        fn each<K>(&mut self, fields: Option<&str>)
        where
            K: Watched + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
            K: DeserializeOwned + Clone + Debug + Send + Sync + 'static,
        {
            let selected = Kind::named(K::KIND).is_some_and(Kind::is_selected);
            let subject = Subject {
                cluster: false,
                labels: self.scope.selector.clone().filter(|_| selected),
                fields: fields.map(str::to_owned),
                ..self.subject::<K>()
            };
            if self.scope.namespaces.is_empty() {
                self.starts.push(start(Api::<K>::all(self.client.clone()), subject));
                return;
            }
            for namespace in &self.scope.namespaces {
                let api = Api::<K>::namespaced(self.client.clone(), namespace);
                self.starts.push(start(api, Subject { namespace: Some(namespace.clone()), ..subject.clone() }));
            }
        }
    }

    let mut plan = Plan { client, scope, server, starts: Vec::new() };
    plan.each::<Service>(None);
    plan.each::<EndpointSlice>(None);
    // The releases of Helm, tokens and pull secrets are most of a cluster's Secrets, and none of them is ever asked for.
    plan.each::<Secret>(Some("type=kubernetes.io/tls"));
    plan.each::<Secret>(Some("type=Opaque"));
    plan.each::<ConfigMap>(None);
    plan.each::<Ingress>(None);
    plan.cluster::<IngressClass>();
    plan.cluster::<DeserializeGuard<GatewayClass>>();
    plan.each::<DeserializeGuard<Gateway>>(None);
    plan.each::<DeserializeGuard<HTTPRoute>>(None);
    plan.each::<DeserializeGuard<GRPCRoute>>(None);
    plan.each::<DeserializeGuard<TLSRoute>>(None);
    plan.each::<DeserializeGuard<TCPRoute>>(None);
    plan.each::<DeserializeGuard<UDPRoute>>(None);
    plan.each::<DeserializeGuard<ListenerSet>>(None);
    plan.each::<DeserializeGuard<BackendTLSPolicy>>(None);
    plan.each::<DeserializeGuard<ReferenceGrant>>(None);
    plan.cluster::<Namespace>();
    plan.starts
}

fn run(runtime: &Runtime, watches: Vec<Start>, server: &str, age: &Age, fresh: &Arc<Fresh>, sender: &feed::Sender) {
    let view = View::new(watches.iter().map(|watch| watch.what.clone()), Instant::now());
    tracing::info!(server, watches = watches.len(), "watching the API server");
    runtime.block_on(async {
        let (news, heard) = mpsc::channel(WAITING);
        for (number, watch) in watches.into_iter().enumerate() {
            (watch.start)(Outlet { number, news: news.clone(), fresh: fresh.clone() });
        }
        drop(news);
        collect(heard, view, age, sender).await;
    });
}

/// Joins what the watches say, until they have ended.
async fn collect(mut news: mpsc::Receiver<(usize, News)>, mut view: View, age: &Age, sender: &feed::Sender) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reminder = Reminder { last: Instant::now(), away: None };
    loop {
        let due = view.due();
        tokio::select! {
            heard = news.recv() => match heard {
                Some((from, news)) => view.take(from, news, Instant::now()),
                None => return,
            },
            () = until(due), if due.is_some() => {}
            _ = ticks.tick() => reminder.look(&view),
        }
        // What is there already is taken first: a listing is told as a whole.
        while let Ok((from, news)) = news.try_recv() {
            view.take(from, news, Instant::now());
        }
        age.set(view.stale_since());
        let was_complete = view.is_complete();
        if let Some(batch) = view.tell(Instant::now()) {
            if !was_complete && view.is_complete() {
                tracing::info!(objects = view.len(), "everything was listed once");
            }
            sender.send(batch);
        }
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Tells what goes on for long, now and then.
struct Reminder {
    last: Instant,
    /// Since when the view is not current.
    away: Option<Instant>,
}

impl Reminder {
    fn look(&mut self, view: &View) {
        let since = view.stale_since().filter(|_| view.is_complete());
        if let (Some(before), None) = (self.away, since) {
            tracing::info!(after = ?before.elapsed(), "the API server is watched again: the view is current");
        }
        self.away = since;
        if self.last.elapsed() < REMIND {
            return;
        }
        self.last = Instant::now();
        if let Some(since) = since {
            tracing::warn!(age = ?since.elapsed(), "the view of the cluster is old; what was last seen stays in use");
        } else if !view.is_complete() {
            tracing::warn!(
                missing = view.missing().join(", "),
                "not everything was listed yet; nothing is served before"
            );
        }
    }
}
