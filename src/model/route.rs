//! What is matched, what is done with it, and where it goes.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{BackendKey, ObjectRef};

/// One way to reach a rule at one host: the rule and one of its matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// What a request must look like.
    pub matches: RouteMatch,
    /// Who wins between matches of equal precision.
    pub rank: Rank,
    /// What happens.
    pub rule: Arc<Rule>,
}

/// All conditions must hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RouteMatch {
    /// The path, normalised, without the query.
    pub path: PathMatch,
    /// The method, upper-case as sent; `None` is every method.
    pub method: Option<Arc<str>>,
    /// Request headers; names are lower-case.
    pub headers: Vec<ValueMatch>,
    /// Query parameters; names are case-sensitive.
    pub query: Vec<ValueMatch>,
}

/// A condition on the path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum PathMatch {
    /// This path, byte for byte.
    Exact(Arc<str>),
    /// This path and everything below it, by whole segments: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`.
    /// Written without a trailing slash; `/` matches everything.
    Prefix(Arc<str>),
    /// A regular expression over the whole path (RE2 syntax, anchored at both ends).
    Regex(Arc<str>),
}

/// A condition on a header or query parameter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ValueMatch {
    /// The name.
    pub name: Arc<str>,
    /// The test on its (first) value.
    pub test: ValueTest,
}

/// How a value is tested.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum ValueTest {
    /// Equal, byte for byte.
    Exact(Arc<str>),
    /// A regular expression over the whole value.
    Regex(Arc<str>),
}

/// The order between matches that the API leaves to age and name: smaller wins.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Rank {
    /// Creation of the object, seconds since the Unix epoch; objects without a time come last.
    pub created: i64,
    /// The object.
    pub source: ObjectRef,
    /// Index of the rule in the object.
    pub rule: u32,
    /// Index of the match in the rule.
    pub index: u32,
}

/// What is done with a matched request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The object that says so.
    pub source: ObjectRef,
    /// Value of the metric label `route`: `kind/namespace/name`, with kind `ingress`, `httproute`, ….
    pub name: Arc<str>,
    /// In written order.
    pub filters: Vec<Filter>,
    /// Shares of the traffic. None, or all of weight 0: the answer is 500, unless a filter answers.
    pub backends: Vec<WeightedBackend>,
    /// Deadlines.
    pub timeouts: RouteTimeouts,
    /// What is tried again beyond what is safe in any case; `None`: nothing.
    pub retry: Option<RouteRetry>,
}

/// Retries that the owner of a route asks for (`retry` of an HTTPRoute rule).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RouteRetry {
    /// Response statuses after which the request is tried again, sorted.
    pub statuses: Vec<u16>,
    /// Retries of one request, beside its first attempt; `None`: as many as the settings say.
    pub attempts: Option<u32>,
    /// Least time between two attempts.
    pub backoff: Duration,
}

/// Deadlines of a rule. `None`: the settings' default. Zero: none at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct RouteTimeouts {
    /// From the first byte of the request to the last of the response, retries included.
    pub request: Option<Duration>,
    /// Of one attempt at one endpoint, to the last byte of its response.
    pub backend: Option<Duration>,
}

/// One share of a rule's traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WeightedBackend {
    /// Relative share, 0 to 1,000,000.
    pub weight: u32,
    /// Where it goes.
    pub target: Target,
    /// Filters of this share alone, after those of the rule.
    pub filters: Vec<Filter>,
}

/// A backend, or why there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Target {
    /// This backend, a key of [`super::Model::backends`].
    Backend(BackendKey),
    /// There is none that may be used: this share is answered with 500.
    Invalid {
        /// Why, for the owner of the route.
        why: Arc<str>,
    },
}

/// One thing done to a request or its response, in the order written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Filter {
    /// Changes request headers.
    RequestHeaders(HeaderEdit),
    /// Changes response headers.
    ResponseHeaders(HeaderEdit),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host or path of what is forwarded.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere and forgets the answer.
    Mirror(Mirror),
    /// Says which pages of other origins may read the answer.
    Cors(Cors),
}

/// What pages of other origins may do (Fetch standard, "CORS protocol").
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Cors {
    /// Which origins: `https://shop.example`, `https://*.shop.example` (one or more labels), or `*`.
    pub origins: Vec<Arc<str>>,
    /// Methods beside the simple ones; `*` is every method.
    pub methods: Vec<Arc<str>>,
    /// Request headers beside the simple ones, lower-case; `*` is every header.
    pub headers: Vec<Arc<str>>,
    /// Response headers that pages may read beside the simple ones; `*` is every header.
    pub expose: Vec<Arc<str>>,
    /// Whether requests may carry cookies and credentials.
    pub credentials: bool,
    /// How long a preflight's answer may be kept.
    pub max_age: Duration,
}

/// Header changes, applied as remove, set, add.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct HeaderEdit {
    /// Replaces all values of the name. Names are lower-case here and below.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Adds a value to the name.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Removes the name.
    pub remove: Vec<Arc<str>>,
}

/// A redirect; what is `None` stays as requested.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host name.
    pub host: Option<Arc<str>>,
    /// Port. When `None` and `scheme` is set: the well-known port of that scheme, which is not written out.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A rewrite; what is `None` stays as requested.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rewrite {
    /// Host name sent to the backend.
    pub host: Option<Arc<str>>,
    /// Path sent to the backend.
    pub path: Option<PathEdit>,
}

/// A new path. The query is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum PathEdit {
    /// Replaces the whole path.
    Full(Arc<str>),
    /// Replaces the prefix that matched.
    Prefix(Arc<str>),
}

/// A copy of a share of the requests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mirror {
    /// Where copies go.
    pub target: Target,
    /// Copies are `numerator` of `denominator` requests.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}
