//! What lives longer than a snapshot: switches, loads, colors with their endpoints, series, parsed keys.
//!
//! Owned by the control loop, which alone writes here; requests reach the same things through the snapshot. Everything is
//! carried over by key, so a changed route or policy never resets what is known about an endpoint, and what nothing uses
//! any more is forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use rustls::ServerConfig;

use crate::model::{
    self, BackendKey, Bind, ClientCertificates, ColorEndpoints, ColorSwitch, Condition, EndpointSource, Model,
    ObjectName, Rule, Shards, Target,
};
use crate::proxy::backend::{Backend, Color, ColorId, Endpoint, EndpointSet, Switch};
use crate::telemetry::stats::{ColorLabels, Registry, Series};
use crate::tls::Inside;

use super::certificates::{Keys, Resolver};
use super::compile::{BackendKeys, compile_rule, targets};
use super::{CompiledRule, Snapshot};

/// A DNS name and the port that its addresses get.
pub type NameKey = (Arc<str>, u16);

/// Names a series of a route: the route, the backend, the color.
type RouteKey = (Arc<str>, BackendKey, Arc<str>);

/// The registry of what is alive.
pub struct Live {
    registry: Arc<Registry>,
    services: HashMap<ObjectName, LiveService, RandomState>,
    /// Services with colors at the last compile.
    switched: BTreeSet<ObjectName>,
    backends: HashMap<BackendKey, LiveBackend, RandomState>,
    /// The backends of the model that was compiled last.
    desired: Shards<BackendKey, Arc<model::Backend>>,
    /// Backends whose endpoints were set since then: they may be others than `desired` says.
    ahead: Vec<BackendKey>,
    /// Backends with endpoints behind a name.
    named: BTreeSet<BackendKey>,
    /// Backends that a rule names and that did not exist when it was compiled.
    missing: BackendKeys,
    /// By address of the model's rule, which the compiled one keeps from being reused.
    rules: HashMap<usize, Weak<CompiledRule>, RandomState>,
    routes: HashMap<RouteKey, Weak<Series>, RandomState>,
    /// Entries of `rules` and `routes` that make the next sweep worth its time.
    sweep_at: usize,
    pub(super) keys: Keys,
    doors: BTreeMap<Bind, Door>,
    /// What names resolved to, last good.
    resolved: BTreeMap<NameKey, Arc<[model::Endpoint]>>,
    /// Colors whose vanished endpoints are being kept.
    holds: usize,
    list: Arc<ArcSwap<Vec<Arc<Backend>>>>,
    revision: u64,
}

/// How TLS is spoken at a socket.
#[derive(Default)]
struct Door {
    resolver: Arc<Resolver>,
    /// What the configurations were made for.
    clients: Option<Arc<ClientCertificates>>,
    http: Option<Arc<ServerConfig>>,
    anything: Option<Arc<ServerConfig>>,
}

struct LiveService {
    switch: Arc<Switch>,
    /// Names of the colors there ever were, by [`ColorId`].
    colors: Vec<Arc<str>>,
}

struct LiveBackend {
    desired: Arc<model::Backend>,
    backend: Arc<Backend>,
    /// In the order of the backend's colors.
    colors: Vec<LiveColor>,
    /// Endpoints were set since `desired` was.
    ahead: bool,
}

struct LiveColor {
    color: Arc<Color>,
    /// What the endpoints were made from.
    source: EndpointSource,
    /// Until when vanished endpoints are kept, nanoseconds.
    held_until: Option<u64>,
    /// Endpoints that have left, for as long as something runs on them: one that comes back is the same.
    departed: Vec<Weak<Endpoint>>,
}

impl Live {
    /// Nothing is alive yet.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            services: HashMap::default(),
            switched: BTreeSet::new(),
            backends: HashMap::default(),
            desired: Shards::default(),
            ahead: Vec::new(),
            named: BTreeSet::new(),
            missing: BackendKeys::default(),
            rules: HashMap::default(),
            routes: HashMap::default(),
            sweep_at: 0,
            keys: Keys::default(),
            doors: BTreeMap::new(),
            resolved: BTreeMap::new(),
            holds: 0,
            list: Arc::default(),
            revision: 0,
        }
    }

    /// All backends, current at any time; for the health checker, the cutover driver and admin.
    pub fn backends(&self) -> Arc<ArcSwap<Vec<Arc<Backend>>>> {
        self.list.clone()
    }

    /// Changes whenever the endpoints of a known color do.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The backend of a key.
    pub fn backend(&self, key: &BackendKey) -> Option<&Arc<Backend>> {
        self.backends.get(key).map(|live| &live.backend)
    }

    /// The switch of a Service that some backend belongs to or that has colors.
    pub fn switch(&self, service: &ObjectName) -> Option<&Arc<Switch>> {
        self.services.get(service).map(|live| &live.switch)
    }

    /// The identity of a color within a Service.
    pub fn color_id(&self, service: &ObjectName, color: &str) -> Option<ColorId> {
        let index = self.services.get(service)?.colors.iter().position(|name| **name == *color)?;
        Some(ColorId(index as u32))
    }

    /// The name of a color within a Service.
    pub fn color_name(&self, service: &ObjectName, id: ColorId) -> Option<&Arc<str>> {
        self.services.get(service)?.colors.get(id.0 as usize)
    }

    /// The endpoints of some colors of a backend changed and nothing else did: stores them in the colors' own cells.
    /// Says whether anything is different now. An unknown backend or color is left alone; it comes with the next compile.
    pub fn set_endpoints(&mut self, key: &BackendKey, colors: &[ColorEndpoints], now: u64) -> bool {
        let Some(live) = self.backends.get_mut(key) else { return false };
        let mut changed = false;
        for endpoints in colors {
            let Some(color) = live.colors.iter_mut().find(|color| color.color.name == endpoints.color) else {
                continue;
            };
            if color.source == endpoints.source {
                continue;
            }
            let context = Context { registry: &self.registry, resolved: &self.resolved, desired: &live.desired, now };
            self.holds = color.set_source(&endpoints.source, &context).count(self.holds);
            if !std::mem::replace(&mut live.ahead, true) {
                self.ahead.push(key.clone());
            }
            self.revision += 1;
            changed = true;
        }
        if changed {
            self.note_names(key);
        }
        changed
    }

    /// What a name resolved to: addresses without order, each once. Says whether anything is different now.
    pub fn set_resolved(&mut self, name: &NameKey, addresses: &[IpAddr], now: u64) -> bool {
        let mut endpoints: Vec<model::Endpoint> = addresses.iter().map(|address| listed(*address, name.1)).collect();
        endpoints.sort();
        endpoints.dedup();
        let endpoints: Arc<[model::Endpoint]> = endpoints.into();
        if self.resolved.get(name) == Some(&endpoints) {
            return false;
        }
        self.resolved.insert(name.clone(), endpoints);
        for live in self.backends.values_mut() {
            for color in &mut live.colors {
                let EndpointSource::Name { host, port } = &color.source else { continue };
                if (host, port) != (&name.0, &name.1) {
                    continue;
                }
                self.revision += 1;
                let source = color.source.clone();
                let context =
                    Context { registry: &self.registry, resolved: &self.resolved, desired: &live.desired, now };
                self.holds = color.set_source(&source, &context).count(self.holds);
            }
        }
        true
    }

    /// The names that have to be resolved. Those that are addresses already are not among them.
    pub fn names(&self) -> BTreeSet<NameKey> {
        self.named
            .iter()
            .filter_map(|key| self.backends.get(key))
            .flat_map(|live| &live.colors)
            .filter_map(|color| match &color.source {
                EndpointSource::Name { host, port } if literal(host).is_none() => Some((host.clone(), *port)),
                _ => None,
            })
            .collect()
    }

    /// Ends the holds whose time is over. To be called a few times a second.
    pub fn tick(&mut self, now: u64) {
        if self.holds == 0 {
            return;
        }
        for live in self.backends.values_mut() {
            for color in &mut live.colors {
                if color.held_until.is_some_and(|until| until <= now) {
                    let context =
                        Context { registry: &self.registry, resolved: &self.resolved, desired: &live.desired, now };
                    let members = context.members(&color.source);
                    self.holds = color.store(members, &context).count(self.holds);
                }
            }
        }
    }

    /// Brings switches, backends and endpoints to what a model wants. Returns the backends that rules must be compiled
    /// against again: those replaced, those gone, and those that a rule had been waiting for.
    pub(super) fn set_backends(&mut self, model: &Model, now: u64) -> BackendKeys {
        let mut replaced = BackendKeys::default();
        let mut list_changed = false;
        for (service, switch) in &model.switches {
            self.set_switch(service, Some(switch), std::iter::empty());
        }
        let before = std::mem::replace(&mut self.desired, model.backends.clone());
        let differences = before.differences(&model.backends, Arc::ptr_eq);
        let ahead = std::mem::take(&mut self.ahead);
        let ahead = ahead.iter().filter_map(|key| model.backends.get(key));
        for desired in differences.iter().filter_map(|difference| difference.new).chain(ahead) {
            let key = &desired.key;
            let switch = model.switches.get(&key.service).map(|switch| &**switch);
            match self.set_backend(desired, switch, now) {
                Step::Kept => {}
                Step::Added => {
                    list_changed = true;
                    if self.missing.remove(key) {
                        replaced.insert(key.clone());
                    }
                }
                Step::Replaced => {
                    list_changed = true;
                    replaced.insert(key.clone());
                }
            }
            self.note_names(key);
        }
        let mut some_are_gone = false;
        for key in differences.iter().filter(|difference| difference.new.is_none()).map(|difference| difference.key) {
            let Some(live) = self.backends.remove(key) else { continue };
            self.let_go(&live.colors);
            self.note_names(key);
            replaced.insert(key.clone());
            (some_are_gone, list_changed) = (true, true);
        }
        if some_are_gone || !self.switched.iter().eq(model.switches.keys()) {
            self.switched = model.switches.keys().cloned().collect();
            let used: HashSet<&ObjectName, RandomState> =
                self.backends.keys().map(|key| &key.service).chain(&self.switched).collect();
            self.services.retain(|service, _| used.contains(service));
        }
        if list_changed {
            let keys = differences.iter().map(|difference| difference.key);
            let list = self.renewed_list(keys);
            self.list.store(Arc::new(list));
            if !self.resolved.is_empty() {
                let names = self.names();
                self.resolved.retain(|name, _| names.contains(name));
            }
        }
        replaced
    }

    /// The list of all backends, in the order of their keys, after these came, changed or went.
    fn renewed_list<'a>(&self, keys: impl ExactSizeIterator<Item = &'a BackendKey>) -> Vec<Arc<Backend>> {
        /// More than so many changes are slower one by one than in one sort.
        const FEW: usize = 64;

        if keys.len() > FEW {
            let mut list: Vec<Arc<Backend>> = self.backends.values().map(|live| live.backend.clone()).collect();
            list.sort_unstable_by(|one, two| one.key.cmp(&two.key));
            return list;
        }
        let mut list = Vec::clone(&self.list.load());
        for key in keys {
            let place = list.binary_search_by(|backend| backend.key.cmp(key));
            match (place, self.backends.get(key)) {
                (Ok(at), Some(live)) => list[at] = live.backend.clone(),
                (Ok(at), None) => {
                    list.remove(at);
                }
                (Err(at), Some(live)) => list.insert(at, live.backend.clone()),
                (Err(_), None) => {}
            }
        }
        list
    }

    /// Keeps `named` what it says.
    fn note_names(&mut self, key: &BackendKey) {
        let is_name = |color: &LiveColor| matches!(color.source, EndpointSource::Name { .. });
        if self.backends.get(key).is_some_and(|live| live.colors.iter().any(is_name)) {
            self.named.insert(key.clone());
        } else {
            self.named.remove(key);
        }
    }

    /// Makes sure that a Service has a switch and that its colors have identities. The switch is only turned here at
    /// first sight, and when the Service had no colors until now; from then on it belongs to the cutover driver.
    fn set_switch<'a>(
        &mut self,
        service: &ObjectName,
        desired: Option<&'a ColorSwitch>,
        colors: impl Iterator<Item = &'a Arc<str>>,
    ) -> &mut LiveService {
        let names = desired.iter().flat_map(|switch| switch.colors.iter().map(|(name, _)| name)).chain(colors);
        let mut first = None;
        let live = self.services.entry(service.clone()).or_insert_with(|| LiveService {
            switch: Arc::new(Switch::new(service.clone(), ColorId(u32::MAX))),
            colors: Vec::new(),
        });
        for name in names {
            let known = live.colors.iter().position(|color| color == name).unwrap_or_else(|| {
                live.colors.push(name.clone());
                live.colors.len() - 1
            });
            first = first.or(Some(ColorId(known as u32)));
        }
        let effective = live.colors.get(live.switch.effective().0 as usize);
        if effective.is_none_or(|name| name.is_empty()) {
            let active = desired
                .filter(|switch| switch.colors.iter().any(|(name, _)| Some(name) == switch.active.as_ref()))
                .and_then(|switch| live.colors.iter().position(|color| Some(color) == switch.active.as_ref()))
                .map(|index| ColorId(index as u32));
            if let Some(color) = active.or(first) {
                live.switch.flip(color);
            }
        }
        live
    }

    fn set_backend(&mut self, desired: &Arc<model::Backend>, switch: Option<&ColorSwitch>, now: u64) -> Step {
        if let Some(live) = self.backends.get_mut(&desired.key) {
            if Arc::ptr_eq(&live.desired, desired) && !live.ahead {
                return Step::Kept;
            }
            if differs_in_endpoints_only(&live.desired, desired) {
                live.desired = desired.clone();
                live.ahead = false;
                let context = Context { registry: &self.registry, resolved: &self.resolved, desired, now };
                for (color, wanted) in live.colors.iter_mut().zip(&desired.colors) {
                    if color.source != wanted.source {
                        self.revision += 1;
                        self.holds = color.set_source(&wanted.source, &context).count(self.holds);
                    }
                }
                return Step::Kept;
            }
        }
        let service = self.set_switch(&desired.key.service, switch, desired.colors.iter().map(|color| &color.color));
        let turned = service.switch.clone();
        let ids: Vec<ColorId> = desired
            .colors
            .iter()
            .filter_map(|color| service.colors.iter().position(|name| *name == color.color))
            .map(|index| ColorId(index as u32))
            .collect();
        let before = self.backends.remove(&desired.key);
        let step = if before.is_some() { Step::Replaced } else { Step::Added };
        let load = before.as_ref().map(|live| live.backend.load.clone()).unwrap_or_default();
        let same_transport = before.as_ref().is_none_or(|live| live.desired.protocol == desired.protocol);
        let mut old_colors = before.map(|live| live.colors).unwrap_or_default();
        let context = Context { registry: &self.registry, resolved: &self.resolved, desired, now };
        let mut colors = Vec::with_capacity(desired.colors.len());
        for (wanted, id) in desired.colors.iter().zip(ids) {
            let color = match old_colors.iter().position(|old| old.color.name == wanted.color) {
                Some(at) => {
                    let mut color = old_colors.swap_remove(at);
                    let hold = if same_transport {
                        color.renew(&wanted.source, &context)
                    } else {
                        color.replace(&wanted.source, &context)
                    };
                    self.holds = hold.count(self.holds);
                    color
                }
                None => LiveColor::new(wanted, id, &context),
            };
            colors.push(color);
        }
        self.let_go(&old_colors);
        let cells = colors.iter().map(|color| color.color.clone()).collect();
        let backend = Arc::new(Backend::new(desired.clone(), cells, turned, load));
        let live = LiveBackend { desired: desired.clone(), backend, colors, ahead: false };
        self.backends.insert(desired.key.clone(), live);
        step
    }

    /// These are not carried over.
    fn let_go(&mut self, colors: &[LiveColor]) {
        for live in colors {
            self.holds -= usize::from(live.held_until.is_some());
            live.color.retire();
        }
    }

    /// The compiled form of a rule: the one there is, or a new one.
    pub(super) fn rule(&mut self, rule: &Arc<Rule>) -> Arc<CompiledRule> {
        let at = Arc::as_ptr(rule) as usize;
        if let Some(known) = self.rules.get(&at).and_then(Weak::upgrade) {
            return known;
        }
        let compiled = Arc::new(compile_rule(rule, self));
        self.rules.insert(at, Arc::downgrade(&compiled));
        compiled
    }

    /// Forgets the compiled rules that send to one of these backends.
    pub(super) fn forget_rules_of(&mut self, replaced: &BackendKeys) {
        if !replaced.is_empty() {
            self.rules.retain(|_, rule| {
                rule.upgrade().is_some_and(|rule| !targets(&rule.source).any(|key| replaced.contains(key)))
            });
        }
    }

    /// The backend of a target, if it may be used.
    pub(super) fn target(&mut self, target: &Target) -> Option<Arc<Backend>> {
        let Target::Backend(key) = target else { return None };
        let found = self.backends.get(key).map(|live| live.backend.clone());
        if found.is_none() {
            self.missing.insert(key.clone());
        }
        found
    }

    /// The series of a route at a color.
    pub(super) fn route_series(&mut self, route: &Arc<str>, key: &BackendKey, color: &Arc<str>) -> Arc<Series> {
        let name = (route.clone(), key.clone(), color.clone());
        if let Some(series) = self.routes.get(&name).and_then(Weak::upgrade) {
            return series;
        }
        let series = Arc::new(self.registry.route(route.clone(), labels(key, color)));
        self.routes.insert(name, Arc::downgrade(&series));
        series
    }

    /// The resolver of a socket.
    pub(super) fn resolver(&mut self, bind: Bind) -> Arc<Resolver> {
        self.doors.entry(bind).or_default().resolver.clone()
    }

    /// How TLS is spoken to the clients of a socket. A configuration stays for as long as it says the same about clients,
    /// so that sessions can be resumed; the next one cannot read its tickets. `None`: the roots of client certificates are
    /// unusable, and nobody is let in unverified.
    pub(super) fn tls(
        &mut self,
        bind: Bind,
        clients: Option<&Arc<ClientCertificates>>,
        inside: Inside,
    ) -> Option<Arc<ServerConfig>> {
        let door = self.doors.entry(bind).or_default();
        if door.clients.as_ref() != clients {
            door.clients = clients.cloned();
            (door.http, door.anything) = (None, None);
        }
        let known = match inside {
            Inside::Http => &mut door.http,
            Inside::Anything => &mut door.anything,
        };
        if known.is_none() {
            match crate::tls::server_config(door.resolver.clone(), clients.map(|clients| &**clients), inside) {
                Ok(config) => *known = Some(config),
                Err(error) => tracing::error!(listener = %bind, %error, "nobody is let in"),
            }
        }
        known.clone()
    }

    /// Forgets the resolvers and configurations of sockets that a snapshot does not serve.
    pub(super) fn forget_binds(&mut self, snapshot: &Snapshot) {
        self.doors.retain(|bind, _| snapshot.entries.contains_key(bind));
    }

    /// Forgets rules and series that no snapshot uses, when enough of them may have gathered.
    pub(super) fn sweep(&mut self) {
        let size = |live: &Self| live.rules.len() + live.routes.len();
        if size(self) >= self.sweep_at {
            self.rules.retain(|_, rule| rule.strong_count() > 0);
            self.routes.retain(|_, series| series.strong_count() > 0);
            self.sweep_at = size(self) * 2 + 64;
        }
    }
}

/// What became of a backend.
enum Step {
    Kept,
    Added,
    Replaced,
}

/// What became of a hold.
enum Hold {
    Begun,
    Ended,
    Same,
}

impl Hold {
    fn count(self, holds: usize) -> usize {
        match self {
            Self::Begun => holds + 1,
            Self::Ended => holds - 1,
            Self::Same => holds,
        }
    }
}

/// What endpoints are made with.
struct Context<'a> {
    registry: &'a Arc<Registry>,
    resolved: &'a BTreeMap<NameKey, Arc<[model::Endpoint]>>,
    desired: &'a model::Backend,
    now: u64,
}

impl Context<'_> {
    /// The addresses of a source, sorted.
    fn members(&self, source: &EndpointSource) -> Arc<[model::Endpoint]> {
        match source {
            EndpointSource::Listed(endpoints) => endpoints.clone(),
            EndpointSource::Name { host, port } => match literal(host) {
                Some(address) => [listed(address, *port)].into(),
                None => self.resolved.get(&(host.clone(), *port)).cloned().unwrap_or_default(),
            },
            EndpointSource::Missing { .. } => Arc::default(),
        }
    }
}

impl LiveColor {
    fn new(wanted: &ColorEndpoints, id: ColorId, context: &Context<'_>) -> Self {
        let key = &context.desired.key;
        let series = context.registry.color(labels(key, &wanted.color));
        let color = Arc::new(Color::new(wanted.color.clone(), id, series));
        let live = Self { color, source: wanted.source.clone(), held_until: None, departed: Vec::new() };
        // At first sight no endpoint is newer than the others: none of them starts slowly.
        let members = live.endpoints(&context.members(&wanted.source), &EndpointSet::default(), 0, context);
        live.color.endpoints.store(Arc::new(EndpointSet::new(members, None, context.desired, context.now)));
        live
    }

    /// The endpoints come from elsewhere or are others. Keeps the last ones for a while if all of them vanished.
    fn set_source(&mut self, source: &EndpointSource, context: &Context<'_>) -> Hold {
        self.source = source.clone();
        let members = context.members(source);
        let usable = |condition: Condition| condition != Condition::NotReady;
        if !context.desired.empty_hold.is_zero()
            && !members.iter().any(|endpoint| usable(endpoint.condition))
            && self.color.endpoints.load().members.iter().any(|(_, condition)| usable(*condition))
        {
            if self.held_until.is_some() {
                return Hold::Same;
            }
            let hold = u64::try_from(context.desired.empty_hold.as_nanos()).unwrap_or(u64::MAX);
            self.held_until = Some(context.now.saturating_add(hold));
            return Hold::Begun;
        }
        self.store(members, context)
    }

    /// The backend's policies changed, so the set is made again; perhaps the endpoints did, too.
    fn renew(&mut self, source: &EndpointSource, context: &Context<'_>) -> Hold {
        let hold = self.set_source(source, context);
        if self.held_until.is_some() {
            let kept = self.color.endpoints.load_full();
            let set = EndpointSet::new(kept.members.clone(), Some(&kept), context.desired, context.now);
            self.color.endpoints.store(Arc::new(set));
        }
        hold
    }

    /// What is spoken to the endpoints changed: they begin anew, for workers keep connections by endpoint, and none of the
    /// old kind may carry another request.
    fn replace(&mut self, source: &EndpointSource, context: &Context<'_>) -> Hold {
        self.source = source.clone();
        self.departed.clear();
        let members = self.endpoints(&context.members(source), &EndpointSet::default(), 0, context);
        self.color.endpoints.store(Arc::new(EndpointSet::new(members, None, context.desired, context.now)));
        if self.held_until.take().is_some() { Hold::Ended } else { Hold::Same }
    }

    fn store(&mut self, members: Arc<[model::Endpoint]>, context: &Context<'_>) -> Hold {
        let before = self.color.endpoints.load_full();
        let members = self.endpoints(&members, &before, context.now, context);
        let set = EndpointSet::new(members, Some(&before), context.desired, context.now);
        let is_back =
            |endpoint: &Arc<Endpoint>| set.find(endpoint.address).is_some_and(|member| Arc::ptr_eq(member, endpoint));
        self.departed.retain(|endpoint| endpoint.upgrade().is_some_and(|endpoint| !is_back(&endpoint)));
        for (endpoint, _) in &before.members {
            if !set.find(endpoint.address).is_some_and(|member| Arc::ptr_eq(member, endpoint)) {
                self.departed.push(Arc::downgrade(endpoint));
            }
        }
        self.color.endpoints.store(Arc::new(set));
        if self.held_until.take().is_some() { Hold::Ended } else { Hold::Same }
    }

    /// The live endpoints of some addresses: those of the last set, those that left and are still in use, or new ones,
    /// which begin at `start`.
    fn endpoints(
        &self,
        members: &[model::Endpoint],
        before: &EndpointSet,
        start: u64,
        context: &Context<'_>,
    ) -> Vec<(Arc<Endpoint>, Condition)> {
        let known = |wanted: &model::Endpoint| -> Option<Arc<Endpoint>> {
            // Another pod behind the same address is another endpoint.
            let same = |endpoint: &Endpoint| endpoint.address == wanted.address && endpoint.pod == wanted.pod;
            before
                .find(wanted.address)
                .filter(|endpoint| same(endpoint))
                .cloned()
                .or_else(|| self.departed.iter().filter_map(Weak::upgrade).find(|endpoint| same(endpoint)))
        };
        members
            .iter()
            .map(|wanted| {
                let endpoint = known(wanted).unwrap_or_else(|| {
                    let labels = labels(&context.desired.key, &self.color.name);
                    let series = context.registry.endpoint(labels, wanted.address);
                    Arc::new(Endpoint::new(wanted.address, wanted.pod.clone(), series, start))
                });
                (endpoint, wanted.condition)
            })
            .collect()
    }
}

/// Whether all that changed is lists of endpoints: then the backend stays and only its colors' cells are set.
fn differs_in_endpoints_only(old: &model::Backend, new: &model::Backend) -> bool {
    let model::Backend { key, protocol, balance, health, outlier, limits, slow_start, empty_hold, colors } = new;
    old.key == *key
        && old.protocol == *protocol
        && old.balance == *balance
        && old.health == *health
        && old.outlier == *outlier
        && old.limits == *limits
        && old.slow_start == *slow_start
        && old.empty_hold == *empty_hold
        && old.colors.len() == colors.len()
        && old.colors.iter().zip(colors).all(|(old, new)| {
            let both_listed =
                matches!((&old.source, &new.source), (EndpointSource::Listed(_), EndpointSource::Listed(_)));
            old.color == new.color && old.service == new.service && (both_listed || old.source == new.source)
        })
}

fn labels(key: &BackendKey, color: &Arc<str>) -> ColorLabels {
    ColorLabels {
        namespace: key.service.namespace.clone(),
        service: key.service.name.clone(),
        port: key.port,
        color: color.clone(),
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

fn listed(address: IpAddr, port: u16) -> model::Endpoint {
    model::Endpoint { address: SocketAddr::new(address, port), condition: Condition::Ready, pod: None, zone: None }
}
