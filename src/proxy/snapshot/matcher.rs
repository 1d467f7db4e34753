//! Which route of one host a request is for.
//!
//! The order is that of Gateway API (HTTPRouteRule, "Proxy or Load Balancer routing configuration generated from
//! HTTPRoutes MUST prioritize matches"): an exact path, a regular expression, the longest prefix; then a method; then the
//! number of header matches; then that of query matches; then age and name (the model's `Rank`). Ingress asks for the same
//! as far as it goes. Built by compile, never changed afterwards; a look-up allocates nothing.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use regex::bytes::Regex;
use smallvec::SmallVec;

use crate::model::{HostPattern, PathMatch, Route, Rule, ValueMatch, ValueTest};
use crate::proxy::wire::{Name, RequestHead};

use super::CompiledRule;

/// From this many routes on, paths are hashed instead of scanned.
const INDEX_FROM: usize = 16;

/// What a request matched.
#[derive(Clone, Copy)]
pub struct Matched<'a> {
    /// The rule.
    pub rule: &'a Arc<CompiledRule>,
    /// Bytes of the request's path that the match covers: what a prefix edit replaces. 0 for the prefix `/`, so that
    /// what follows always begins with a slash or is empty; the whole path for exact paths and regular expressions.
    pub prefix: usize,
    /// The host pattern whose routes were looked at.
    pub host: &'a HostPattern,
    /// The match, as in the model.
    pub route: &'a Arc<Route>,
}

/// The routes of one host.
pub struct HostTable {
    /// The host.
    pub pattern: HostPattern,
    /// In order of precedence.
    candidates: Box<[Candidate]>,
    /// By path; only for many routes.
    index: Option<PathIndex>,
}

/// A route in the form that requests are compared with.
pub(super) struct Candidate {
    path: PathTest,
    method: Option<Arc<str>>,
    headers: Box<[HeaderTest]>,
    query: Box<[QueryTest]>,
    pub(super) rule: Arc<CompiledRule>,
    pub(super) route: Arc<Route>,
}

enum PathTest {
    Exact(Arc<str>),
    Regex(Regex),
    /// Without trailing slash, so `/` is empty.
    Prefix(Arc<str>),
}

struct HeaderTest {
    id: Name,
    name: Arc<str>,
    test: Test,
}

struct QueryTest {
    name: Arc<str>,
    test: Test,
}

enum Test {
    Exact(Arc<str>),
    Regex(Regex),
}

/// The first condition of a route that a request does not meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mismatch {
    Path,
    Method,
    /// Index among the header conditions.
    Header(usize),
    /// Index among the query conditions.
    Query(usize),
}

/// What of a request is compared, taken out of the head once.
pub(super) struct Facts<'a> {
    path: &'a [u8],
    method: &'a [u8],
    head: &'a RequestHead,
}

impl<'a> Facts<'a> {
    pub(super) fn of(head: &'a RequestHead) -> Self {
        Self { path: head.path_bytes(), method: head.method_bytes(), head }
    }
}

/// Where the candidates of a path stand.
struct PathIndex {
    exact: HashMap<Arc<str>, Range<usize>, RandomState>,
    regex: Range<usize>,
    prefix: HashMap<Arc<str>, Range<usize>, RandomState>,
    /// No prefix is longer. Bounds the work that a long foreign path can cause.
    longest_prefix: usize,
}

impl HostTable {
    /// Prepares the routes of a host. `rule` finds or makes the compiled form of a rule. A route whose regular expression
    /// cannot be compiled is left out and logged: translation has checked it, so this is a second fence only.
    pub fn new(
        pattern: HostPattern,
        routes: &[Arc<Route>],
        mut rule: impl FnMut(&Arc<Rule>) -> Arc<CompiledRule>,
    ) -> Self {
        let mut candidates: Vec<Candidate> = routes
            .iter()
            .filter_map(|route| match Candidate::new(route, &mut rule) {
                Ok(candidate) => Some(candidate),
                Err(error) => {
                    tracing::warn!(route = %route.rule.name, %error, "a match is left out");
                    None
                }
            })
            .collect();
        candidates.sort_by(Candidate::precedence);
        let index = (candidates.len() >= INDEX_FROM).then(|| PathIndex::new(&candidates));
        Self { pattern, candidates: candidates.into(), index }
    }

    /// The routes in order of precedence.
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The routes in order of precedence, as in the model; for showing.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.candidates.iter().map(|candidate| &candidate.route)
    }

    /// The best route for a request.
    pub(super) fn find(&self, facts: &Facts<'_>) -> Option<Matched<'_>> {
        match &self.index {
            None => self.first(0..self.candidates.len(), facts),
            Some(index) => index.find(facts.head.path(), |range| self.first(range, facts)),
        }
    }

    fn first(&self, range: Range<usize>, facts: &Facts<'_>) -> Option<Matched<'_>> {
        self.candidates[range].iter().find(|candidate| candidate.mismatch(facts).is_none()).map(|candidate| Matched {
            rule: &candidate.rule,
            prefix: match &candidate.path {
                PathTest::Exact(_) | PathTest::Regex(_) => facts.path.len(),
                PathTest::Prefix(prefix) => prefix.len(),
            },
            host: &self.pattern,
            route: &candidate.route,
        })
    }
}

impl Candidate {
    fn new(
        route: &Arc<Route>,
        rule: &mut impl FnMut(&Arc<Rule>) -> Arc<CompiledRule>,
    ) -> Result<Self, Box<regex::Error>> {
        let matches = &route.matches;
        let path = match &matches.path {
            PathMatch::Exact(path) => PathTest::Exact(path.clone()),
            PathMatch::Regex(pattern) => PathTest::Regex(whole(pattern)?),
            PathMatch::Prefix(prefix) => PathTest::Prefix(match prefix.trim_end_matches('/') {
                trimmed if trimmed.len() == prefix.len() => prefix.clone(),
                trimmed => trimmed.into(),
            }),
        };
        let header = |condition: &ValueMatch| -> Result<HeaderTest, Box<regex::Error>> {
            let name: Arc<str> = match condition.name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                true => condition.name.to_ascii_lowercase().into(),
                false => condition.name.clone(),
            };
            Ok(HeaderTest { id: Name::of(name.as_bytes()), name, test: Test::new(&condition.test)? })
        };
        let query = |condition: &ValueMatch| -> Result<QueryTest, Box<regex::Error>> {
            Ok(QueryTest { name: condition.name.clone(), test: Test::new(&condition.test)? })
        };
        Ok(Self {
            path,
            method: matches.method.clone(),
            headers: matches.headers.iter().map(header).collect::<Result<_, _>>()?,
            query: matches.query.iter().map(query).collect::<Result<_, _>>()?,
            rule: rule(&route.rule),
            route: route.clone(),
        })
    }

    /// Smaller is tried first. Candidates of the same exact path or prefix are neighbours.
    fn precedence(&self, other: &Self) -> Ordering {
        fn key(candidate: &Candidate) -> (u8, Reverse<usize>, &str) {
            match &candidate.path {
                // Two exact paths that match one request are equal, so their text may come before everything else.
                PathTest::Exact(path) => (0, Reverse(0), path),
                // Left open by the API. The longer expression is usually the more specific one.
                PathTest::Regex(regex) => (1, Reverse(regex.as_str().len()), ""),
                PathTest::Prefix(prefix) => (2, Reverse(prefix.len()), prefix),
            }
        }
        key(self)
            .cmp(&key(other))
            .then_with(|| self.method.is_none().cmp(&other.method.is_none()))
            .then_with(|| other.headers.len().cmp(&self.headers.len()))
            .then_with(|| other.query.len().cmp(&self.query.len()))
            .then_with(|| self.route.rank.cmp(&other.route.rank))
    }

    /// The first condition that the request does not meet; `None`: it matches.
    pub(super) fn mismatch(&self, facts: &Facts<'_>) -> Option<Mismatch> {
        let path_matches = match &self.path {
            PathTest::Exact(path) => path.as_bytes() == facts.path,
            PathTest::Regex(regex) => regex.is_match(facts.path),
            PathTest::Prefix(prefix) => {
                prefix.is_empty()
                    || facts
                        .path
                        .strip_prefix(prefix.as_bytes())
                        .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
            }
        };
        if !path_matches {
            return Some(Mismatch::Path);
        }
        if self.method.as_ref().is_some_and(|method| method.as_bytes() != facts.method) {
            return Some(Mismatch::Method);
        }
        if let Some(index) = self.headers.iter().position(|condition| !condition.holds(facts.head)) {
            return Some(Mismatch::Header(index));
        }
        self.query.iter().position(|condition| !condition.holds(facts.head.query())).map(Mismatch::Query)
    }
}

impl HeaderTest {
    fn holds(&self, head: &RequestHead) -> bool {
        let value = match self.id {
            // Kept apart from the header list.
            Name::Host => Some(head.authority().as_bytes()),
            Name::Other => head.headers.get(&self.name),
            known => head.headers.known(known),
        };
        value.is_some_and(|value| self.test.holds(value))
    }
}

impl QueryTest {
    /// Looks at the first parameter of the name. Names and values are compared after percent-decoding; `+` is a plus.
    fn holds(&self, query: Option<&str>) -> bool {
        let Some(query) = query else { return false };
        for pair in query.as_bytes().split(|byte| *byte == b'&') {
            let equals = memchr::memchr(b'=', pair);
            let name = &pair[..equals.unwrap_or(pair.len())];
            if decoded(name).eq(self.name.bytes()) {
                let value = equals.map_or(&[][..], |equals| &pair[equals + 1..]);
                return self.test.holds_decoded(value);
            }
        }
        false
    }
}

impl Test {
    fn new(test: &ValueTest) -> Result<Self, Box<regex::Error>> {
        Ok(match test {
            ValueTest::Exact(value) => Self::Exact(value.clone()),
            ValueTest::Regex(pattern) => Self::Regex(whole(pattern)?),
        })
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => wanted.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }

    fn holds_decoded(&self, value: &[u8]) -> bool {
        match self {
            _ if memchr::memchr(b'%', value).is_none() => self.holds(value),
            Self::Exact(wanted) => decoded(value).eq(wanted.bytes()),
            Self::Regex(regex) => regex.is_match(&decoded(value).collect::<SmallVec<[u8; 256]>>()),
        }
    }
}

impl PathIndex {
    fn new(candidates: &[Candidate]) -> Self {
        let mut exact: HashMap<Arc<str>, Range<usize>, RandomState> = HashMap::default();
        let mut prefix: HashMap<Arc<str>, Range<usize>, RandomState> = HashMap::default();
        let mut regex = 0..0;
        let mut longest_prefix = 0;
        for (at, candidate) in candidates.iter().enumerate() {
            let range = match &candidate.path {
                PathTest::Exact(path) => exact.entry(path.clone()).or_insert(at..at),
                PathTest::Regex(_) if regex.is_empty() => {
                    regex = at..at;
                    &mut regex
                }
                PathTest::Regex(_) => &mut regex,
                PathTest::Prefix(path) => {
                    longest_prefix = longest_prefix.max(path.len());
                    prefix.entry(path.clone()).or_insert(at..at)
                }
            };
            range.end = at + 1;
        }
        Self { exact, regex, prefix, longest_prefix }
    }

    /// Shows `look` the candidates that may match a path, in order of precedence, until it has found something.
    fn find<R>(&self, path: &str, mut look: impl FnMut(Range<usize>) -> Option<R>) -> Option<R> {
        if let Some(found) = self.exact.get(path).and_then(|range| look(range.clone())) {
            return Some(found);
        }
        if !self.regex.is_empty()
            && let Some(found) = look(self.regex.clone())
        {
            return Some(found);
        }
        let mut under = |prefix: &str| self.prefix.get(prefix).and_then(|range| look(range.clone()));
        if path.len() <= self.longest_prefix
            && let Some(found) = under(path)
        {
            return Some(found);
        }
        // A prefix ends where the path has a slash. A slash that begins a longer prefix than any is skipped over.
        let reach = path.len().min(self.longest_prefix + 1);
        for slash in memchr::memrchr_iter(b'/', &path.as_bytes()[..reach]) {
            if slash == 0 {
                break;
            }
            if let Some(found) = under(&path[..slash]) {
                return Some(found);
            }
        }
        if path.is_empty() { None } else { under("") }
    }
}

/// A regular expression over the whole of a text.
fn whole(pattern: &str) -> Result<Regex, Box<regex::Error>> {
    Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(Box::new)
}

/// The bytes of a text after percent-decoding (RFC 3986 section 2.1). A `%` that does not begin an escape stands for itself.
fn decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        if first == b'%'
            && let [high, low, after @ ..] = tail
            && let (Some(high), Some(low)) = ((*high as char).to_digit(16), (*low as char).to_digit(16))
        {
            rest = after;
            return Some((high * 16 + low) as u8);
        }
        rest = tail;
        Some(first)
    })
}
