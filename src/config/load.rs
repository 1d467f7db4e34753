//! Defaults, then the file, then the environment, then the flags; all that is wrong is told at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_saphyr::{Location, Spanned};

use super::document::{self, Node};
use super::error::{Place, SettingError, nearest};
use super::settings::{Listener, ListenerProtocol, Settings};
use super::table::{self, Setting, TABLE, env_name};
use super::value::{address, boolean, choice};

/// Settings given as flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Serve HTTP at this address (`:8080`, `127.0.0.1:0`), or `off`
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// Serve HTTPS at this address, or `off`
    #[arg(long, value_name = "ADDRESS")]
    pub https: Option<String>,
    /// Serve health, metrics and the operator's calls at this address
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// Folder (or file) of manifests, watched
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<String>,
    /// Watch an API server; in a pod without a folder it is done unless this says `false`
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub kubernetes: Option<String>,
    /// How the API server is reached; default: KUBECONFIG, in a pod its service account, else ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// Namespaces that are watched, separated by commas; default: all
    #[arg(long, value_name = "NAMES")]
    pub namespace: Option<String>,
    /// Threads that serve requests
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// auto, json or text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// off, sampled or full
    #[arg(long, value_name = "MODE")]
    pub access_log: Option<String>,
    /// Any setting, as in the file: `--set limits.target=8KiB`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Flags {
    fn of(&self, flag: &str) -> Option<&str> {
        match flag {
            "--admin" => self.admin.as_deref(),
            "--manifests" => self.manifests.as_deref(),
            "--kubernetes" => self.kubernetes.as_deref(),
            "--kubeconfig" => self.kubeconfig.as_deref(),
            "--namespace" => self.namespace.as_deref(),
            "--workers" => self.workers.as_deref(),
            "--log-level" => self.log_level.as_deref(),
            "--log-format" => self.log_format.as_deref(),
            "--access-log" => self.access_log.as_deref(),
            _ => None,
        }
    }
}

/// Where the value of each setting comes from, by key. `listeners.http` and `listeners.https` stand for the listeners of
/// that protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origins {
    places: BTreeMap<&'static str, Place>,
    replaced: Vec<Replaced>,
}

/// Listeners of the file that a flag or variable for their whole protocol has replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// Their names, in order.
    pub names: Vec<String>,
    /// What they are replaced by.
    pub by: Place,
}

impl Origins {
    /// Where the value of this setting comes from.
    pub fn of(&self, key: &str) -> &Place {
        self.places.get(key).unwrap_or(&Place::Default)
    }

    /// Listeners that the file names and nobody listens for, or not as the file says: worth a warning. One listener that
    /// only has another address now is not among them.
    pub fn replaced(&self) -> &[Replaced] {
        &self.replaced
    }

    /// Every setting with its value and origin, for `weir check --origin`. Secrets are not shown.
    pub fn rows(&self, settings: &Settings) -> Vec<(&'static str, String, &Place)> {
        let listeners = PROTOCOLS.iter().map(|(protocol, key)| {
            let addresses = settings.listeners.iter().filter(|listener| listener.protocol == *protocol);
            let shown: Vec<String> = addresses.map(|listener| listener.address.to_string()).collect();
            (*key, if shown.is_empty() { "off".to_owned() } else { shown.join(",") }, self.of(key))
        });
        let others = TABLE.iter().map(|setting| (setting.key, (setting.show)(settings), self.of(setting.key)));
        listeners.chain(others).collect()
    }
}

const PROTOCOLS: [(ListenerProtocol, &str); 2] =
    [(ListenerProtocol::Http, "listeners.http"), (ListenerProtocol::Https, "listeners.https")];

/// Reads all settings. The working directory, the clock and the real environment are not looked at.
///
/// # Errors
/// All that is wrong, in the order file, environment, flags.
pub fn load(
    file: Option<&Path>,
    env: &BTreeMap<String, String>,
    flags: &Flags,
) -> Result<(Settings, Origins), Vec<SettingError>> {
    let mut loader = Loader::default();
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => loader.file(path, &text),
            Err(error) => {
                loader.errors.push(SettingError::Unreadable { path: path.to_owned(), reason: error.to_string() });
            }
        }
    }
    loader.environment(env);
    loader.flags(flags);
    loader.together();
    loader.done()
}

#[derive(Default)]
struct Loader {
    settings: Settings,
    origins: BTreeMap<&'static str, Place>,
    replaced: Vec<Replaced>,
    errors: Vec<SettingError>,
    /// Where each listener is written, as far as the file says.
    listener_places: Vec<Place>,
}

impl Loader {
    /// One value of the table.
    fn take(&mut self, setting: &'static Setting, text: &str, place: Place) {
        if (setting.set)(&mut self.settings, text).is_some() {
            self.origins.insert(setting.key, place);
        } else {
            let value = if setting.secret() { "not acceptable".to_owned() } else { format!("{text:?}") };
            self.wrong(place, setting.key, value, (setting.accepts)());
        }
    }

    fn wrong(&mut self, place: Place, key: &str, value: String, accepts: String) {
        self.errors.push(SettingError::Value { place, key: key.to_owned(), value, accepts });
    }

    // ---- file --------------------------------------------------------------------------------------------------------

    fn file(&mut self, path: &Path, text: &str) {
        let place =
            |at: Location| Place::File { path: path.into(), line: at.line() as u32, column: at.column() as u32 };
        match document::read(text) {
            Ok(Node::Null) => {}
            Ok(Node::Map(entries)) => self.section("", entries, &place),
            Ok(other) => {
                let place = Place::File { path: path.into(), line: 1, column: 1 };
                let reason = format!("the file is {}, but must be a mapping of settings", other.describe());
                self.errors.push(SettingError::Syntax { place, reason });
            }
            Err(error) => {
                let at = error.location().unwrap_or(Location::UNKNOWN);
                let reason = plain_message(&error.to_string());
                self.errors.push(SettingError::Syntax { place: place(at), reason });
            }
        }
    }

    fn section(
        &mut self,
        prefix: &str,
        entries: Vec<(Spanned<String>, Spanned<Node>)>,
        place: &dyn Fn(Location) -> Place,
    ) {
        for (name, node) in entries {
            let key = format!("{prefix}{}", name.value);
            let inner = format!("{key}.");
            if key == "listeners" {
                self.listeners(node, place);
            } else if let Some(setting) = table::find(&key) {
                self.leaf(setting, node, place);
            } else if TABLE.iter().any(|setting| setting.key.starts_with(&inner)) {
                match node.value {
                    Node::Null => {}
                    Node::Map(entries) => self.section(&inner, entries, place),
                    other => {
                        self.wrong(place(node.referenced), &key, other.describe(), "a mapping of settings".to_owned())
                    }
                }
            } else {
                let near = nearest(&key, known_keys(prefix));
                self.errors.push(SettingError::Unknown { place: place(name.referenced), key, near });
            }
        }
    }

    fn leaf(&mut self, setting: &'static Setting, node: Spanned<Node>, place: &dyn Fn(Location) -> Place) {
        let at = place(node.referenced);
        match node.value {
            Node::Scalar(text) => self.take(setting, &text, at),
            // `token:` with nothing behind it is a setting that someone left at its default.
            Node::Null => {}
            Node::List(items) if setting.list() => {
                let mut texts = Vec::new();
                for item in items {
                    match item.value {
                        Node::Scalar(text) if (setting.set)(&mut Settings::default(), &text).is_some() => {
                            texts.push(text)
                        }
                        other => self.wrong(place(item.referenced), setting.key, other.describe(), (setting.accepts)()),
                    }
                }
                self.take(setting, &texts.join(","), at);
            }
            other => self.wrong(at, setting.key, other.describe(), (setting.accepts)()),
        }
    }

    fn listeners(&mut self, node: Spanned<Node>, place: &dyn Fn(Location) -> Place) {
        let at = place(node.referenced);
        let items = match node.value {
            Node::List(items) => items,
            other => {
                let accepts = "a list of listeners, each with name, address and protocol".to_owned();
                return self.wrong(at, "listeners", other.describe(), accepts);
            }
        };
        self.settings.listeners.clear();
        for (_, key) in PROTOCOLS {
            self.origins.insert(key, at.clone());
        }
        for (index, item) in items.into_iter().enumerate() {
            let at = place(item.referenced);
            let key = format!("listeners[{index}]");
            match item.value {
                Node::Map(entries) => {
                    if let Some(listener) = self.listener(&key, &at, entries, place) {
                        self.settings.listeners.push(listener);
                        self.listener_places.push(at);
                    }
                }
                other => self.wrong(at, &key, other.describe(), "a mapping with name, address and protocol".to_owned()),
            }
        }
    }

    fn listener(
        &mut self,
        key: &str,
        at: &Place,
        entries: Vec<(Spanned<String>, Spanned<Node>)>,
        place: &dyn Fn(Location) -> Place,
    ) -> Option<Listener> {
        let errors = self.errors.len();
        let (mut name, mut socket, mut protocol, mut proxy_protocol) = (None, None, None, false);
        for (part, node) in entries {
            let key = format!("{key}.{}", part.value);
            let text = match &node.value {
                Node::Scalar(text) => text.as_str(),
                _ => "",
            };
            let accepts = match part.value.as_str() {
                "name" => {
                    name = Some(text.to_owned()).filter(|name| is_listener_name(name));
                    name.is_none().then(|| "1 to 63 of a-z, 0-9 and -".to_owned())
                }
                "address" => {
                    socket = address::read(text);
                    socket.is_none().then(address::accepts)
                }
                "protocol" => {
                    let all = PROTOCOLS.map(|(protocol, _)| protocol);
                    protocol = choice::read(text, &all);
                    protocol.is_none().then(|| choice::accepts(&all))
                }
                "proxy_protocol" => match boolean::read(text) {
                    Some(value) => {
                        proxy_protocol = value;
                        None
                    }
                    None => Some(boolean::accepts()),
                },
                other => {
                    let near = nearest(other, ["name", "address", "protocol", "proxy_protocol"]);
                    self.errors.push(SettingError::Unknown { place: place(part.referenced), key, near });
                    continue;
                }
            };
            if let Some(accepts) = accepts {
                self.wrong(place(node.referenced), &key, node.value.describe(), accepts);
            }
        }
        if self.errors.len() > errors {
            return None;
        }
        let missing = |part: &str, fix: &str| SettingError::Missing {
            place: at.clone(),
            key: format!("{key}.{part}"),
            fix: fix.to_owned(),
        };
        if name.is_none() {
            self.errors.push(missing("name", "write for example name: http"));
        }
        if socket.is_none() {
            self.errors.push(missing("address", "write for example address: :8080"));
        }
        if protocol.is_none() {
            self.errors.push(missing("protocol", "write protocol: http or protocol: https"));
        }
        Some(Listener { name: name?, address: socket?, protocol: protocol?, proxy_protocol })
    }

    // ---- environment and flags ---------------------------------------------------------------------------------------

    fn environment(&mut self, env: &BTreeMap<String, String>) {
        for setting in TABLE {
            for name in [Some(setting.env()), setting.short_env()].into_iter().flatten() {
                if let Some(text) = env.get(&name) {
                    self.take(setting, text, Place::Environment(name));
                }
            }
        }
        for (protocol, _) in PROTOCOLS {
            let name = env_name(&choice::show(&protocol));
            if let Some(text) = env.get(&name) {
                self.one_listener(protocol, text, Place::Environment(name));
            }
        }
        let mut known: Vec<String> = TABLE.iter().flat_map(|s| [Some(s.env()), s.short_env()]).flatten().collect();
        known.extend(["WEIR_HTTP", "WEIR_HTTPS", "WEIR_CONFIG", "WEIR_KUBERNETES"].map(str::to_owned));
        for name in env.keys().filter(|name| name.starts_with("WEIR_")) {
            if !known.contains(name) && !is_service_link(name) {
                let near = nearest(name, known.iter().map(String::as_str));
                let place = Place::Environment(name.clone());
                self.errors.push(SettingError::Unknown { place, key: name.clone(), near });
            }
        }
    }

    fn flags(&mut self, flags: &Flags) {
        for setting in TABLE {
            if let Some(flag) = setting.flag
                && let Some(text) = flags.of(flag)
            {
                self.take(setting, text, Place::Flag(flag.to_owned()));
            }
        }
        for (protocol, text) in [(ListenerProtocol::Http, &flags.http), (ListenerProtocol::Https, &flags.https)] {
            if let Some(text) = text {
                self.one_listener(protocol, text, Place::Flag(format!("--{}", choice::show(&protocol))));
            }
        }
        for pair in &flags.set {
            let place = Place::Flag(format!("--set {pair}"));
            let Some((key, text)) = pair.split_once('=') else {
                self.wrong(Place::Flag("--set".to_owned()), "--set", format!("{pair:?}"), "KEY=VALUE".to_owned());
                continue;
            };
            match table::find(key) {
                Some(setting) if setting.secret() => self.take(setting, text, Place::Flag(format!("--set {key}"))),
                Some(setting) => self.take(setting, text, place),
                None => {
                    let near = nearest(key, TABLE.iter().map(|setting| setting.key));
                    self.errors.push(SettingError::Unknown { place, key: key.to_owned(), near });
                }
            }
        }
    }

    /// `--http` and its kin: all listeners of the protocol become this one.
    fn one_listener(&mut self, protocol: ListenerProtocol, text: &str, place: Place) {
        let name = choice::show(&protocol);
        let key = if protocol == ListenerProtocol::Http { "listeners.http" } else { "listeners.https" };
        let socket: Option<SocketAddr> = match (text, address::read(text)) {
            ("off", _) => None,
            (_, Some(socket)) => Some(socket),
            _ => return self.wrong(place, key, format!("{text:?}"), format!("{}, or off", address::accepts())),
        };
        let first = self.settings.listeners.iter().position(|listener| listener.protocol == protocol);
        let proxy_protocol = first.is_some_and(|first| self.settings.listeners[first].proxy_protocol);
        let gone: Vec<Listener> =
            self.settings.listeners.extract_if(.., |listener| listener.protocol == protocol).collect();
        let only_moved = socket.is_some() && gone.len() == 1 && gone[0].name == name;
        if matches!(self.origins.get(key), Some(Place::File { .. })) && !gone.is_empty() && !only_moved {
            let names = gone.into_iter().map(|listener| listener.name).collect();
            self.replaced.push(Replaced { names, by: place.clone() });
        }
        self.listener_places.clear();
        if let Some(address) = socket {
            let index = first.unwrap_or(usize::MAX).min(self.settings.listeners.len());
            self.settings.listeners.insert(index, Listener { name, address, protocol, proxy_protocol });
        }
        self.origins.insert(key, place);
    }

    // ---- all together ------------------------------------------------------------------------------------------------

    fn done(self) -> Result<(Settings, Origins), Vec<SettingError>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        Ok((self.settings, Origins { places: self.origins, replaced: self.replaced }))
    }

    /// What each value alone cannot show.
    fn together(&mut self) {
        let mut conflicts = Vec::new();
        let listeners = &self.settings.listeners;
        for (index, listener) in listeners.iter().enumerate() {
            let place = || match self.listener_places.get(index) {
                Some(place) => place.clone(),
                None => self
                    .origins
                    .get(PROTOCOLS[(listener.protocol == ListenerProtocol::Https) as usize].1)
                    .cloned()
                    .unwrap_or(Place::Default),
            };
            let mut conflict = |part: &str, reason: String, fix: &str| {
                let key = format!("listeners[{index}].{part}");
                conflicts.push(SettingError::Conflict { place: place(), key, reason, fix: fix.to_owned() });
            };
            if let Some(other) = listeners[..index].iter().position(|other| other.name == listener.name) {
                conflict(
                    "name",
                    format!("{:?} is the name of listeners[{other}] too", listener.name),
                    "give each its own",
                );
            }
            let taken = |other: &SocketAddr| *other == listener.address && other.port() != 0;
            if let Some(other) = listeners[..index].iter().position(|other| taken(&other.address)) {
                conflict(
                    "address",
                    format!("{} is taken by listeners[{other}]", listener.address),
                    "give each its own",
                );
            } else if taken(&self.settings.admin.address) {
                conflict("address", format!("{} is taken by admin.address", listener.address), "give each its own");
            }
        }
        let limits = &self.settings.limits;
        if limits.h2_stream_window > limits.h2_connection_window {
            let place = self.origins.get("limits.h2_stream_window").or(self.origins.get("limits.h2_connection_window"));
            conflicts.push(SettingError::Conflict {
                place: place.cloned().unwrap_or(Place::Default),
                key: "limits.h2_stream_window".to_owned(),
                reason: "one stream's window is larger than the whole connection's".to_owned(),
                fix: "lower it, or raise limits.h2_connection_window".to_owned(),
            });
        }
        self.errors.extend(conflicts);
    }
}

/// The keys that may stand where an unknown one stood.
fn known_keys(prefix: &str) -> Vec<&'static str> {
    let mut keys: Vec<&str> = TABLE
        .iter()
        .filter(|setting| setting.key.starts_with(prefix))
        .map(|setting| match (prefix.is_empty(), setting.key.split_once('.')) {
            (true, Some((section, _))) => section,
            _ => setting.key,
        })
        .collect();
    if prefix.is_empty() {
        keys.push("listeners");
    }
    keys
}

fn is_listener_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Kubernetes tells every pod about the Services of its namespace in variables like `WEIR_SERVICE_HOST`, `WEIR_PORT` and
/// `WEIR_ADMIN_PORT_9900_TCP_ADDR`; a Service named weir must not stop weir.
fn is_service_link(name: &str) -> bool {
    let port = |rest: &str| {
        rest.is_empty() || rest.strip_prefix('_').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, found)| port(&name[at + found.len()..]))
}

/// The parser's first line without the place, which is shown in front.
fn plain_message(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = match message.starts_with("line ") {
        true => message.split_once(": ").map_or(message, |(_, rest)| rest),
        false => message,
    };
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].trim_end_matches([':', ',']).to_owned()
}

/// For the tests: the file's text instead of its path.
#[cfg(test)]
pub(super) fn load_text(
    text: &str,
    env: &BTreeMap<String, String>,
    flags: &Flags,
) -> Result<(Settings, Origins), Vec<SettingError>> {
    let mut loader = Loader::default();
    loader.file(Path::new("weir.yaml"), text);
    loader.environment(env);
    loader.flags(flags);
    loader.together();
    loader.done()
}
