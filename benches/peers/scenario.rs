//! What can be measured, by name.

use clap::ValueEnum;

use crate::proxies::Kind;

/// Names on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Everything below
    All,
    /// The seven kinds of traffic
    Traffic,
    /// HTTP/1.1, 1 KiB
    #[value(alias = "s1")]
    H1,
    /// HTTP/1.1 over TLS, 1 KiB
    #[value(alias = "s2")]
    H1Tls,
    /// HTTP/2 over TLS, 1 KiB
    #[value(alias = "s3")]
    H2,
    /// Full TLS handshakes
    #[value(alias = "s4")]
    Handshake,
    /// Responses of 1 MiB
    #[value(alias = "s5")]
    Large,
    /// POST of 64 KiB
    #[value(alias = "s6")]
    Upload,
    /// HTTP/1.1, 1 KiB, spread over 10,000 hosts
    #[value(alias = "s7")]
    Hosts,
    /// One route more where there are 10,000
    Reload,
    /// Memory of 10,000 idle connections, plain and over TLS
    Idle,
    /// Latency at 5,000 requests a second
    Latency,
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Traffic(Traffic),
    Reload,
    Idle,
    Latency,
}

/// Traffic whose cost is CPU time of the proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    H1,
    H1Tls,
    H2,
    Handshake,
    Large,
    Upload,
    Hosts,
}

const TRAFFIC: [Traffic; 7] =
    [Traffic::H1, Traffic::H1Tls, Traffic::H2, Traffic::Handshake, Traffic::Large, Traffic::Upload, Traffic::Hosts];

impl Scenario {
    /// How it is called in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Traffic(Traffic::H1) => "HTTP/1.1, 1 KiB",
            Self::Traffic(Traffic::H1Tls) => "HTTP/1.1 over TLS, 1 KiB",
            Self::Traffic(Traffic::H2) => "HTTP/2 over TLS, 1 KiB",
            Self::Traffic(Traffic::Handshake) => "full TLS handshake and one request",
            Self::Traffic(Traffic::Large) => "responses of 1 MiB",
            Self::Traffic(Traffic::Upload) => "POST of 64 KiB",
            Self::Traffic(Traffic::Hosts) => "HTTP/1.1, 1 KiB, 10,000 hosts",
            Self::Reload => "one route more at 10,000 hosts",
            Self::Idle => "idle connections",
            Self::Latency => "latency at 5,000 requests/s",
        }
    }

    /// Whether this proxy can take part. The relay copies bytes: it is the floor of the plain case, and no rival.
    pub fn suits(self, kind: Kind) -> bool {
        kind != Kind::Relay || self == Self::Traffic(Traffic::H1)
    }
}

impl Traffic {
    /// Whether the client speaks TLS.
    pub fn tls(self) -> bool {
        matches!(self, Self::H1Tls | Self::H2 | Self::Handshake)
    }
}

/// The scenarios behind the names, each once, in the order of the table.
pub fn chosen(choices: &[Choice]) -> Vec<Scenario> {
    let has = |choice| choices.contains(&choice) || choices.contains(&Choice::All);
    let mut scenarios = Vec::new();
    for traffic in TRAFFIC {
        let own = match traffic {
            Traffic::H1 => Choice::H1,
            Traffic::H1Tls => Choice::H1Tls,
            Traffic::H2 => Choice::H2,
            Traffic::Handshake => Choice::Handshake,
            Traffic::Large => Choice::Large,
            Traffic::Upload => Choice::Upload,
            Traffic::Hosts => Choice::Hosts,
        };
        if has(own) || has(Choice::Traffic) {
            scenarios.push(Scenario::Traffic(traffic));
        }
    }
    for (choice, scenario) in
        [(Choice::Reload, Scenario::Reload), (Choice::Idle, Scenario::Idle), (Choice::Latency, Scenario::Latency)]
    {
        if has(choice) {
            scenarios.push(scenario);
        }
    }
    scenarios
}
