use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

use super::error::Place;
use super::load::load_text;
use super::table::TABLE;
use super::*;

const ANNOTATED: &str = include_str!("../../config/weir.yaml");

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

fn flags(words: &[&str]) -> Flags {
    Cli::parse_from(["weir"].iter().chain(words)).flags
}

fn good(text: &str, variables: &[(&str, &str)], words: &[&str]) -> (Settings, Origins) {
    load_text(text, &env(variables), &flags(words)).unwrap()
}

fn bad(text: &str, variables: &[(&str, &str)], words: &[&str]) -> Vec<String> {
    let errors = load_text(text, &env(variables), &flags(words)).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn annotated_file_says_exactly_the_defaults() {
    let (settings, _) = good(ANNOTATED, &[], &[]);
    assert_eq!(settings, Settings::default());
}

#[test]
fn annotated_file_mentions_every_setting() {
    // The keys of the file, by indentation.
    let mut section = "";
    let mut keys = Vec::new();
    for line in ANNOTATED.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        match name.strip_prefix("  ") {
            None if rest.trim().is_empty() => section = name,
            Some(name) => {
                keys.push(format!("{section}.{name}"));
                continue;
            }
            None => {}
        }
        keys.push(name.to_owned());
    }
    for setting in TABLE {
        assert!(keys.iter().any(|key| key == setting.key), "{} is not in config/weir.yaml", setting.key);
    }
}

#[test]
fn the_table_holds_every_field_of_the_settings() {
    fn leaves(prefix: &str, value: &serde_json::Value, all: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (name, value) in map {
                    leaves(&format!("{prefix}.{name}"), value, all);
                }
            }
            _ => all.push(prefix[1..].to_owned()),
        }
    }
    let mut fields = Vec::new();
    leaves("", &serde_json::to_value(Settings::default()).unwrap(), &mut fields);
    fields.retain(|field| field != "listeners");
    fields.sort();
    let mut keys: Vec<&str> = TABLE.iter().map(|setting| setting.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, fields);
}

#[test]
fn every_default_is_acceptable_and_shown_as_it_is_written() {
    for setting in TABLE {
        let mut settings = Settings::default();
        let shown = (setting.show)(&settings);
        assert!((setting.set)(&mut settings, &shown).is_some(), "{} = {shown}", setting.key);
        assert_eq!(settings, Settings::default(), "{}", setting.key);
    }
}

#[test]
fn empty_and_absent_files_are_the_defaults() {
    for text in ["", "# nothing\n", "limits:\n", "---\n"] {
        assert_eq!(good(text, &[], &[]).0, Settings::default(), "{text:?}");
    }
    assert_eq!(load(None, &env(&[]), &Flags::default()).unwrap().0, Settings::default());
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "limits: {method: 1, target: 1KiB, trailer: 1}\nlog: {level: warn}\n";
    let variables = [("WEIR_LIMITS_METHOD", "2"), ("WEIR_LOG_LEVEL", "debug")];
    let (settings, origins) = good(file, &variables, &["--log-level", "trace", "--set", "limits.trailer=3"]);
    assert_eq!((settings.limits.method, settings.limits.target, settings.limits.trailer), (2, 1024, 3));
    assert_eq!(settings.log.level, LogLevel::Trace);
    let shown = |key| origins.of(key).to_string();
    assert_eq!(shown("limits.method"), "WEIR_LIMITS_METHOD");
    assert_eq!(shown("limits.target"), "weir.yaml:1:29");
    assert_eq!(shown("limits.trailer"), "--set limits.trailer=3");
    assert_eq!(shown("log.level"), "--log-level");
    assert_eq!(shown("workers"), "default");
}

#[test]
fn addresses_may_be_short_and_a_listener_may_be_off() {
    let (settings, origins) = good(ANNOTATED, &[("WEIR_HTTP", ":8081")], &["--https", "off", "--admin", "localhost:1"]);
    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.listeners[0].address.to_string(), "0.0.0.0:8081");
    assert_eq!(settings.admin.address.to_string(), "127.0.0.1:1");
    let rows = origins.rows(&settings);
    assert_eq!(
        (rows[0].0, rows[0].1.as_str(), rows[0].2.to_string()),
        ("listeners.http", "0.0.0.0:8081", "WEIR_HTTP".into())
    );
    assert_eq!((rows[1].0, rows[1].1.as_str(), rows[1].2.to_string()), ("listeners.https", "off", "--https".into()));
}

#[test]
fn listeners_that_a_flag_replaces_are_known_by_name() {
    let file = "listeners:\n- {name: a, address: ':1', protocol: http}\n- {name: b, address: ':2', protocol: http}\n\
                - {name: https, address: ':3', protocol: https}\n";
    let replaced = |variables: &[(&str, &str)], words: &[&str]| -> Vec<String> {
        let (_, origins) = good(file, variables, words);
        origins.replaced().iter().map(|gone| format!("{} by {}", gone.names.join(","), gone.by)).collect()
    };
    assert_eq!(replaced(&[], &["--http", ":8"]), ["a,b by --http"]);
    assert_eq!(replaced(&[("WEIR_HTTP", ":8")], &["--http", ":9"]), ["a,b by WEIR_HTTP"]);
    assert_eq!(replaced(&[], &["--https", "off"]), ["https by --https"]);
    assert!(replaced(&[], &[]).is_empty());
    assert!(replaced(&[], &["--https", ":9"]).is_empty(), "it has another address, as any setting may");
    let (_, origins) = good("", &[], &["--http", ":8"]);
    assert!(origins.replaced().is_empty(), "defaults are there to be replaced");
}

#[test]
fn two_listeners_may_ask_for_any_port() {
    let (settings, _) = good("", &[], &["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(settings.listeners[0].name, "http");
    assert_eq!(settings.listeners[1].name, "https");
}

#[test]
fn values_are_read_in_all_their_spellings() {
    let file = "timeouts: {connect: 250ms, keep_alive: 1m30s, tunnel_idle: 7d}\ntrusted_proxies: [10.0.0.0/8, ::1]\nlimits: {body: 1GiB}\n";
    let (settings, _) = good(file, &[("WEIR_ACCESS_LOG_SAMPLE", "0.5")], &[]);
    assert_eq!(settings.timeouts.connect, Duration::from_millis(250));
    assert_eq!(settings.timeouts.keep_alive, Duration::from_secs(90));
    assert_eq!(settings.timeouts.tunnel_idle, Duration::from_secs(7 * 86400));
    assert_eq!(settings.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    assert_eq!((settings.limits.body, settings.access_log.sample), (1 << 30, 0.5));
    let (settings, _) = good("", &[("WEIR_TRUSTED_PROXIES", "10.0.0.0/8, 192.168.0.1")], &["--manifests", "shop"]);
    assert_eq!(settings.trusted_proxies.len(), 2);
    assert_eq!(settings.provider.directory.as_deref(), Some(Path::new("shop")));
}

#[test]
fn variables_of_a_service_named_weir_are_no_settings() {
    let variables = [
        ("WEIR_SERVICE_HOST", "10.0.0.1"),
        ("WEIR_SERVICE_PORT_HTTP", "80"),
        ("WEIR_PORT", "tcp://10.0.0.1:80"),
        ("WEIR_ADMIN_PORT_9900_TCP_ADDR", "10.0.0.1"),
        ("WEIR_CONFIG", "weir.yaml"),
        ("OTHER", "x"),
    ];
    assert_eq!(good("", &variables, &[]).0, Settings::default());
}

#[test]
fn what_is_wrong_in_the_file_is_said_with_place_and_remedy() {
    let listener = "must be an address and port like 127.0.0.1:8080, [::1]:8080 or :8080 (every address)";
    let table: &[(&str, &str)] = &[
        ("limit: {method: 1}", "weir.yaml:1:1: there is no setting limit; did you mean limits?"),
        ("limits:\n  metod: 1", "weir.yaml:2:3: there is no setting limits.metod; did you mean limits.method?"),
        ("log:\n  levle: info", "weir.yaml:2:3: there is no setting log.levle; did you mean log.level?"),
        ("xyzzy: 1", "weir.yaml:1:1: there is no setting xyzzy"),
        ("limits: 5", "weir.yaml:1:9: limits is \"5\", but must be a mapping of settings"),
        (
            "limits: {method: 0}",
            "weir.yaml:1:18: limits.method is \"0\", but must be a size in bytes like 4096, 32KiB or 1MiB, from 1 to 256",
        ),
        (
            "limits: {target: 2MiB}",
            "weir.yaml:1:18: limits.target is \"2MiB\", but must be a size in bytes like 4096, 32KiB or 1MiB, from 256 to 64KiB",
        ),
        (
            "limits: {header_block: 32kb}",
            "weir.yaml:1:24: limits.header_block is \"32kb\", but must be a size in bytes like 4096, 32KiB or 1MiB, from 1KiB to 64KiB",
        ),
        (
            "limits: {header_count: -1}",
            "weir.yaml:1:24: limits.header_count is \"-1\", but must be a whole number from 1 to 256",
        ),
        (
            "limits: {header_count: 1.5}",
            "weir.yaml:1:24: limits.header_count is \"1.5\", but must be a whole number from 1 to 256",
        ),
        (
            "limits: {header_count: [1]}",
            "weir.yaml:1:24: limits.header_count is a list, but must be a whole number from 1 to 256",
        ),
        (
            "timeouts: {connect: 5}",
            "weir.yaml:1:21: timeouts.connect is \"5\", but must be a duration like 250ms, 5s, 1m30s or 1h, from 10ms to 5m",
        ),
        (
            "timeouts: {connect: 0}",
            "weir.yaml:1:21: timeouts.connect is \"0\", but must be a duration like 250ms, 5s, 1m30s or 1h, from 10ms to 5m",
        ),
        (
            "timeouts: {body_idle: 2h}",
            "weir.yaml:1:23: timeouts.body_idle is \"2h\", but must be a duration like 250ms, 5s, 1m30s or 1h, from 100ms to 1h",
        ),
        (
            "timeouts: {keep_alive: 5 s}",
            "weir.yaml:1:24: timeouts.keep_alive is \"5 s\", but must be a duration like 250ms, 5s, 1m30s or 1h, from 0 to 1h",
        ),
        (
            "trusted_proxies: [10.0.0.0/33]",
            "weir.yaml:1:19: trusted_proxies is \"10.0.0.0/33\", but must be networks like 10.0.0.0/8 or 2001:db8::/32, or addresses",
        ),
        (
            "trusted_proxies: {a: b}",
            "weir.yaml:1:18: trusted_proxies is a mapping, but must be networks like 10.0.0.0/8 or 2001:db8::/32, or addresses",
        ),
        (
            "access_log: {mode: some}",
            "weir.yaml:1:20: access_log.mode is \"some\", but must be one of off, sampled, full",
        ),
        (
            "access_log: {sample: 2}",
            "weir.yaml:1:22: access_log.sample is \"2\", but must be a share from 0 to 1, like 0.01",
        ),
        ("headers: {reason: maybe}", "weir.yaml:1:19: headers.reason is \"maybe\", but must be true or false"),
        (
            "headers: {underscores: pass}",
            "weir.yaml:1:24: headers.underscores is \"pass\", but must be one of drop, keep",
        ),
        (
            "retries: {budget_percent: 101}",
            "weir.yaml:1:27: retries.budget_percent is \"101\", but must be a whole number from 0 to 100",
        ),
        ("workers: 0", "weir.yaml:1:10: workers is \"0\", but must be a whole number from 1 to 1024"),
        ("log: {format: xml}", "weir.yaml:1:15: log.format is \"xml\", but must be one of auto, json, text"),
        (
            "admin: {token: short}",
            "weir.yaml:1:16: admin.token is not acceptable, but must be at least 16 visible ASCII characters",
        ),
        (
            "listeners: 8080",
            "weir.yaml:1:12: listeners is \"8080\", but must be a list of listeners, each with name, address and protocol",
        ),
        (
            "listeners:\n- 8080",
            "weir.yaml:2:3: listeners[0] is \"8080\", but must be a mapping with name, address and protocol",
        ),
        (
            "listeners:\n- {name: a, adress: \":1\", protocol: http}",
            "weir.yaml:2:13: there is no setting listeners[0].adress; did you mean address?",
        ),
        (
            "listeners:\n- {name: a, protocol: http}",
            "weir.yaml:2:3: listeners[0].address is missing; write for example address: :8080",
        ),
        (
            "listeners:\n- {name: A, address: \":1\", protocol: http}",
            "weir.yaml:2:10: listeners[0].name is \"A\", but must be 1 to 63 of a-z, 0-9 and -",
        ),
        (
            "listeners:\n- {name: a, address: \":1\", protocol: tcp}",
            "weir.yaml:2:38: listeners[0].protocol is \"tcp\", but must be one of http, https",
        ),
        (
            "listeners:\n- {name: a, address: \":1\", protocol: http}\n- {name: a, address: \":2\", protocol: http}",
            "weir.yaml:3:3: listeners[1].name: \"a\" is the name of listeners[0] too; give each its own",
        ),
        (
            "listeners:\n- {name: a, address: \":1\", protocol: http}\n- {name: b, address: \":1\", protocol: http}",
            "weir.yaml:3:3: listeners[1].address: 0.0.0.0:1 is taken by listeners[0]; give each its own",
        ),
        (
            "admin: {address: \"0.0.0.0:8080\"}",
            "default: listeners[0].address: 0.0.0.0:8080 is taken by admin.address; give each its own",
        ),
        (
            "limits: {h2_stream_window: 2MiB}",
            "weir.yaml:1:28: limits.h2_stream_window: one stream's window is larger than the whole connection's; lower it, or raise limits.h2_connection_window",
        ),
        ("- a", "weir.yaml:1:1: the file is a list, but must be a mapping of settings"),
    ];
    for (text, message) in table {
        assert_eq!(bad(text, &[], &[]), [*message], "{text}");
    }
    let address = bad("listeners:\n- {name: a, address: 8080, protocol: http}", &[], &[]);
    assert_eq!(address, [format!("weir.yaml:2:22: listeners[0].address is \"8080\", but {listener}")]);
}

#[test]
fn what_is_wrong_elsewhere_names_variable_or_flag() {
    #[expect(clippy::type_complexity, reason = "a table of environment, flags and message")]
    let table: &[(&[(&str, &str)], &[&str], &str)] = &[
        (
            &[("WEIR_LIMITS_METOD", "1")],
            &[],
            "WEIR_LIMITS_METOD: there is no setting WEIR_LIMITS_METOD; did you mean WEIR_LIMITS_METHOD?",
        ),
        (
            &[("WEIR_WORKERS", "many")],
            &[],
            "WEIR_WORKERS: workers is \"many\", but must be a whole number from 1 to 1024",
        ),
        (
            &[("WEIR_HTTP", "8080")],
            &[],
            "WEIR_HTTP: listeners.http is \"8080\", but must be an address and port like 127.0.0.1:8080, [::1]:8080 or :8080 (every address), or off",
        ),
        (
            &[],
            &["--log-level", "loud"],
            "--log-level: log.level is \"loud\", but must be one of error, warn, info, debug, trace",
        ),
        (
            &[],
            &["--set", "limits.tarket=1KiB"],
            "--set limits.tarket=1KiB: there is no setting limits.tarket; did you mean limits.target?",
        ),
        (&[], &["--set", "workers"], "--set: --set is \"workers\", but must be KEY=VALUE"),
        (
            &[],
            &["--http", ":7", "--https", ":7"],
            "--https: listeners[1].address: 0.0.0.0:7 is taken by listeners[0]; give each its own",
        ),
    ];
    for (variables, words, message) in table {
        assert_eq!(bad("", variables, words), [*message]);
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    assert_eq!(bad("a: 1\nworkers: 0\n", &[("WEIR_LOG_LEVEL", "x")], &["--set", "b=1"]).len(), 4);
}

#[test]
fn a_file_that_is_no_yaml_or_missing_is_told_with_its_place() {
    let errors = bad("limits: {method: 1\n", &[], &[]);
    assert!(errors.len() == 1 && errors[0].starts_with("weir.yaml:"), "{errors:?}");
    let errors = bad("workers: 1\nworkers: 2\n", &[], &[]);
    assert!(errors.len() == 1 && errors[0].starts_with("weir.yaml:2:1: "), "{errors:?}");
    let missing = load(Some(Path::new("/nonexistent/weir.yaml")), &env(&[]), &Flags::default()).unwrap_err();
    assert!(missing[0].to_string().starts_with("/nonexistent/weir.yaml: cannot be read: "), "{missing:?}");
}

#[test]
fn the_token_is_never_shown() {
    let (settings, origins) = good("admin: {token: 0123456789abcdef-secret}", &[], &[]);
    let shown = format!("{settings:?}{}{:?}", serde_json::to_string(&settings).unwrap(), origins.rows(&settings));
    assert!(!shown.contains("secret") && settings.admin.token.is_some());
    let errors = bad("", &[], &["--set", "admin.token=geheim"]);
    assert!(!errors[0].contains("geheim"), "{errors:?}");
    assert_eq!(origins.of("admin.token"), &Place::File { path: "weir.yaml".into(), line: 1, column: 16 });
}

#[test]
fn the_reference_has_a_row_for_every_setting() {
    let text = reference();
    assert_eq!(text.lines().count(), TABLE.len() + 3);
    assert!(text.lines().all(|line| line.matches('|').count() == 7), "{text}");
    assert!(text.contains("| `limits.target` | `WEIR_LIMITS_TARGET` | `--set` | `16KiB` | a size in bytes"), "{text}");
}

#[test]
fn ranges_of_addresses_leave_out_what_no_host_has_and_are_shown_as_they_are_read() {
    use super::value::ranges;
    let shown = |text: &str| ranges::read(text).map(|ranges| ranges::show(&ranges));
    for (text, expected) in [
        ("", Some("")),
        ("192.0.2.7, 2001:db8::1", Some("192.0.2.7,2001:db8::1")),
        ("192.0.2.0/29", Some("192.0.2.1-192.0.2.6")),
        ("192.0.2.0/31", Some("192.0.2.0-192.0.2.1")),
        ("192.0.2.7/32", Some("192.0.2.7")),
        ("2001:db8::/126", Some("2001:db8::-2001:db8::3")),
        ("192.0.2.10-192.0.2.20,192.0.2.9", Some("192.0.2.10-192.0.2.20,192.0.2.9")),
        ("192.0.2.20-192.0.2.10", None),
        ("192.0.2.1-2001:db8::1", None),
        ("edge.example.com", None),
    ] {
        assert_eq!(shown(text).as_deref(), expected, "{text}");
        assert!(expected.is_none_or(|expected| shown(expected).as_deref() == Some(expected)), "{text}");
    }
}

#[test]
fn lease_may_have_any_name_that_the_api_server_would_have() {
    let label = "a".repeat(64);
    for name in ["7", "edge.weir", &format!("{label}.b-c"), &["a"; 127].join(".")] {
        let (settings, _) = good(&format!("provider: {{lease: \"{name}\"}}"), &[], &[]);
        assert_eq!(settings.provider.lease, name);
    }
    for name in ["Edge", "edge..weir", ".weir", "weir-", "a-.b", &["a"; 128].join(".")] {
        bad(&format!("provider: {{lease: \"{name}\"}}"), &[], &[]);
    }
}
