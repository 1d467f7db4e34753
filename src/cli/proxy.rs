//! `weir proxy`: a reverse proxy in one line. The line becomes the same objects that a file would hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressClass, IngressClassSpec, IngressRule,
    IngressServiceBackend, IngressSpec, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::exit::{CliError, Exit};
use super::output;
use super::serve::{self, Event, Source};
use super::settings::{self, Flags};
use crate::control::translate::{Change, Object};
use crate::model::ANNOTATION_DOMAIN;

/// Sends everything that arrives at one address to another: a reverse proxy without a file.
#[derive(clap::Args, Debug)]
pub(super) struct Proxy {
    /// Where to listen, IP:PORT or :PORT.
    #[arg(long, value_name = "ADDR", default_value = ":8080", value_parser = serve::address)]
    from: SocketAddr,
    /// Where to send requests: [http://|https://|h2c://]HOST:PORT. Several of IP:PORT share the load.
    #[arg(long, value_name = "TARGET", required = true, value_delimiter = ',')]
    to: Vec<String>,
    /// Address for the admin API and metrics.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = serve::address)]
    admin: SocketAddr,
    /// Worker threads; default: one per available core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
}

pub(super) fn proxy(arguments: &Proxy) -> Result<Exit, CliError> {
    let upstream = Upstream::parse(&arguments.to)?;
    let (settings, origins) = settings::load(
        None,
        &Flags {
            http: Some(arguments.from.to_string()),
            https: Some("off".to_owned()),
            admin: Some(arguments.admin.to_string()),
            workers: arguments.workers.map(|workers| workers.to_string()),
            log_level: Some("warn".to_owned()),
            ..Flags::default()
        },
    )?;
    let to = arguments.to.join(", ");
    serve::serve(settings, &origins, Source::Embedded(upstream.objects()), |event| match event {
        Event::Listening { listener, address } if listener == "admin" => {
            output::print(&format!("metrics at http://{address}/metrics\n"));
        }
        Event::Listening { address, .. } => output::print(&format!("http://{address} -> {to}\n")),
        Event::Ready => {}
    })?;
    Ok(Exit::Ok)
}

/// Where requests go.
#[derive(Debug, PartialEq, Eq)]
struct Upstream {
    /// `None` is HTTP/1.1 in clear text.
    protocol: Option<&'static str>,
    port: u16,
    at: At,
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    Addresses(Vec<SocketAddr>),
    Name(String),
}

impl Upstream {
    fn parse(targets: &[String]) -> Result<Self, CliError> {
        let bad = |argument: &str, problem: &str| CliError::Argument {
            argument: format!("--to {argument}"),
            problem: problem.to_owned(),
            fix: "write [http://|https://|h2c://]HOST:PORT, for example 127.0.0.1:9000".to_owned(),
        };
        let mut found: Option<Self> = None;
        for target in targets {
            let (protocol, rest) = match target.split_once("://") {
                None => (None, target.as_str()),
                Some(("http", rest)) => (None, rest),
                Some(("https", rest)) => (Some("https"), rest),
                Some(("h2c", rest)) => (Some("kubernetes.io/h2c"), rest),
                Some(_) => return Err(bad(target, "unknown scheme")),
            };
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            if rest.contains('/') {
                return Err(bad(target, "a path cannot be given"));
            }
            let local = if rest.starts_with(':') { format!("127.0.0.1{rest}") } else { rest.to_owned() };
            let (host, port) = local.rsplit_once(':').ok_or_else(|| bad(target, "no port"))?;
            let port = port.parse::<u16>().ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| bad(target, "the port is not a number from 1 to 65535"))?;
            let at = match local.parse::<SocketAddr>() {
                Ok(address) => At::Addresses(vec![address]),
                Err(_) if is_name(host) => At::Name(host.to_ascii_lowercase()),
                Err(_) => return Err(bad(target, "the host is neither an IP address nor a name")),
            };
            match (&mut found, at) {
                (None, at) => found = Some(Self { protocol, port, at }),
                (Some(first), _) if first.protocol != protocol => {
                    return Err(bad(target, "another scheme than the target before it"));
                }
                (Some(Self { at: At::Addresses(all), .. }), At::Addresses(more)) => all.extend(more),
                _ => return Err(bad(target, "a name stands alone; only IP addresses can share the load")),
            }
        }
        found.ok_or_else(|| bad("", "empty"))
    }

    fn objects(&self) -> Vec<Change> {
        let named = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        };
        let mut service = Service {
            metadata: named("upstream"),
            spec: Some(ServiceSpec {
                ports: Some(vec![ServicePort {
                    name: Some("http".to_owned()),
                    port: i32::from(self.port),
                    app_protocol: self.protocol.map(str::to_owned),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        };
        match &self.at {
            At::Addresses(all) => {
                let list = all.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
                let annotations = BTreeMap::from([(format!("{ANNOTATION_DOMAIN}/endpoints"), list)]);
                service.metadata.annotations = Some(annotations);
            }
            At::Name(name) => {
                let spec = service.spec.get_or_insert_default();
                spec.type_ = Some("ExternalName".to_owned());
                spec.external_name = Some(name.clone());
            }
        }
        let backend = IngressBackend {
            service: Some(IngressServiceBackend {
                name: "upstream".to_owned(),
                port: Some(ServiceBackendPort { number: Some(i32::from(self.port)), ..ServiceBackendPort::default() }),
            }),
            ..IngressBackend::default()
        };
        let path = HTTPIngressPath { path: Some("/".to_owned()), path_type: "Prefix".to_owned(), backend };
        let ingress = Ingress {
            metadata: named("proxy"),
            spec: Some(IngressSpec {
                ingress_class_name: Some("weir".to_owned()),
                rules: Some(vec![IngressRule { host: None, http: Some(HTTPIngressRuleValue { paths: vec![path] }) }]),
                ..IngressSpec::default()
            }),
            ..Ingress::default()
        };
        let class = IngressClass {
            metadata: ObjectMeta { name: Some("weir".to_owned()), ..ObjectMeta::default() },
            spec: Some(IngressClassSpec {
                controller: Some(format!("{ANNOTATION_DOMAIN}/ingress-controller")),
                ..IngressClassSpec::default()
            }),
        };
        vec![
            Change::Put(Object::IngressClass(Arc::new(class))),
            Change::Put(Object::Service(Arc::new(service))),
            Change::Put(Object::Ingress(Arc::new(ingress))),
        ]
    }
}

fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(targets: &[&str]) -> Result<Upstream, String> {
        Upstream::parse(&targets.iter().map(|&target| target.to_owned()).collect::<Vec<_>>())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn targets_are_addresses_or_one_name() {
        let two = parse(&["127.0.0.1:9000", "http://[::1]:9001/"]).unwrap();
        let expected = ["127.0.0.1:9000", "[::1]:9001"].map(|address| address.parse().unwrap()).to_vec();
        assert_eq!(two, Upstream { protocol: None, port: 9000, at: At::Addresses(expected) });
        let name = parse(&["https://Example.test:443"]).unwrap();
        assert_eq!(name, Upstream { protocol: Some("https"), port: 443, at: At::Name("example.test".to_owned()) });
        assert_eq!(parse(&[":9000"]).unwrap().at, At::Addresses(vec!["127.0.0.1:9000".parse().unwrap()]));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        for (targets, reason) in [
            (&["127.0.0.1"][..], "no port"),
            (&["127.0.0.1:0"], "not a number from 1 to 65535"),
            (&["localhost:http"], "not a number"),
            (&["ftp://a:1"], "unknown scheme"),
            (&["a:1/path"], "a path cannot be given"),
            (&["-a-:1"], "neither an IP address nor a name"),
            (&["a:1", "b:1"], "a name stands alone"),
            (&["127.0.0.1:1", "https://127.0.0.1:2"], "another scheme"),
        ] {
            let error = parse(targets).unwrap_err();
            assert!(error.contains(reason) && error.contains("--to"), "{targets:?}: {error}");
        }
    }

    #[test]
    fn the_line_becomes_a_class_a_service_and_an_ingress() {
        let kinds: Vec<_> = parse(&["localhost:1"])
            .unwrap()
            .objects()
            .into_iter()
            .map(|change| match change {
                Change::Put(object) => object.reference().to_string(),
                Change::Remove(reference) => format!("- {reference}"),
            })
            .collect();
        assert_eq!(kinds, ["IngressClass weir", "Service default/upstream", "Ingress default/proxy"]);
    }
}
