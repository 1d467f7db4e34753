//! A change of the folder is served a moment later, and closes nothing that is still wanted.

use std::time::{Duration, Instant};

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{self, H1, H2, Target};
use crate::harness::load::Plan;
use crate::harness::manifests::{
    Conditions, classes, gateway, http_route, ingress, ingress_with, plain_service, service, slices, tls_secret,
};
use crate::harness::scene::{self, GRPC_HOST, HOST, backends, shop};
use crate::harness::weir::Weir;
use crate::harness::{eventually, median_and_worst, turn, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_served_on_connections_that_are_open() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["one", "two"]).await;
    let weir = Weir::start(&shop(&backends[0])).await;
    let mut h1 = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    for number in 0..10 {
        let backend = &backends[(number + 1) % 2];
        weir.apply("main.yaml", &shop(backend));
        weir.until_served(HOST, "/", |answer| answer.header("x-backend") == backend.name()).await;
        for _ in 0..4 {
            assert_eq!(h1.get(HOST, "/").await.unwrap().header("x-backend"), backend.name());
            assert_eq!(h2.get(HOST, "/").await.unwrap().header("x-backend"), backend.name());
        }
    }
    assert!(!h1.closed() && !h2.closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_does_not_parse_keeps_its_last_good_content() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let good = std::fs::read_to_string(weir.folder().join("main.yaml")).unwrap();
    for broken in ["kind: [unclosed", "\u{0}\u{1}", &good[..good.rfind("name: shop, port").unwrap()]] {
        weir.apply("main.yaml", broken);
        weir.apply("other.yaml", &ingress("other", &format!("h{}.example", broken.len()), "/", "shop"));
        weir.until_served(&format!("h{}.example", broken.len()), "/", |answer| answer.status == 200).await;
        assert_eq!(weir.get(HOST, "/").await.status, 200, "after {broken:?}");
        assert_eq!(weir.admin_get("/readyz").await.unwrap().status, 200);
    }
    assert!(weir.log().iter().any(|line| line.contains("main.yaml")), "the log names the file: {:?}", weir.log());
    weir.apply("main.yaml", &good.replace(HOST, "moved.example"));
    weir.until_served("moved.example", "/", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_written_in_pieces_is_never_served_in_half() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let whole = ingress("pieces", "pieces.example", "/", "shop");
    let path = weir.folder().join("pieces.yaml");
    for end in (0..=whole.len()).step_by(20).chain([whole.len()]) {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(weir.get(HOST, "/").await.status, 200);
    }
    weir.until_served("pieces.example", "/", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_file_removes_its_routes_and_nothing_else() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    weir.apply("other.yaml", &ingress("other", "other.example", "/", "shop"));
    weir.until_served("other.example", "/", |answer| answer.status == 200).await;
    weir.remove("other.yaml");
    weir.until_served("other.example", "/", |answer| answer.status == 404).await;
    assert_eq!(weir.get(HOST, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symlink_swap_as_kubernetes_mounts_do_is_seen() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["one", "two"]).await;
    let weir = Weir::builder().start().await;
    let folder = weir.folder();
    // ConfigMap volumes: files are links into `..data`, which is a link to a dated folder and is swapped in one step.
    for (version, backend) in [("..2026_01", &backends[0]), ("..2026_02", &backends[1])] {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("shop.yaml"), shop(backend)).unwrap();
        std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        if version == "..2026_01" {
            std::os::unix::fs::symlink("..data/shop.yaml", folder.join("shop.yaml")).unwrap();
        }
        weir.until_served(HOST, "/", |answer| answer.header("x-backend") == backend.name()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_vanishes_and_returns_is_followed() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let (folder, aside) = (weir.folder(), weir.folder().with_extension("aside"));
    std::fs::rename(&folder, &aside).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(weir.get(HOST, "/").await.status, 200, "what was served stays while the folder is away");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("main.yaml"), shop(&backend).replace(HOST, "back.example")).unwrap();
    weir.until_served("back.example", "/", |answer| answer.status == 200).await;
    weir.apply("main.yaml", &shop(&backend).replace(HOST, "again.example"));
    weir.until_served("again.example", "/", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_lists_and_subfolders_are_read() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let list = format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [
          {{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "shop", "annotations": {{"weir.dev/endpoints": "{}"}}}}, "spec": {{"ports": [{{"port": 80}}]}}}},
          {{"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {{"name": "weir"}}, "spec": {{"controller": "weir.dev/ingress-controller"}}}}]}}"#,
        backend.address()
    );
    let builder =
        Weir::builder().file("base.json", &list).file("deep/er/route.yml", &ingress("shop", HOST, "/", "shop"));
    let weir = builder.file("notes.txt", "kind: [not a manifest").start().await;
    assert_eq!(weir.get(HOST, "/").await.status, 200);
    std::fs::create_dir_all(weir.folder().join("new/folder")).unwrap();
    std::fs::write(weir.folder().join("new/folder/more.yaml"), ingress("more", "more.example", "/", "shop")).unwrap();
    weir.until_served("more.example", "/", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_listener_comes_and_goes_without_harm_to_the_others() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    connection.get(HOST, "/").await.unwrap();
    // A port that is free now; the Gateway has to name one.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let extra = gateway("extra", "").replace("port: 80", &format!("port: {port}"))
        + &http_route("extra", "extra", "extra.example", "  - backendRefs: [{name: shop, port: 80}]\n");
    weir.apply("gateway.yaml", &extra);
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let get = async || client::get(address, "extra.example", "/").await.map_err(|error| error.to_string());
    eventually("the new port answers", async || {
        let answer = get().await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let mut through = H1::connect(&Target::plain(address)).await.unwrap();
    assert_eq!(through.get("extra.example", "/").await.unwrap().status, 200);
    weir.remove("gateway.yaml");
    until("the port is closed", async || get().await.is_err()).await;
    assert_eq!(connection.get(HOST, "/").await.unwrap().status, 200);
    assert!(!connection.closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_gets_no_share_of_a_port_that_the_settings_have() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let extra = gateway("extra", "").replace("port: 80", &format!("port: {}", weir.http.port()));
    weir.apply("gateway.yaml", &extra);
    let told = |line: &String| line.contains("it is the listener `http` of the settings");
    until("it is told that the port is taken", async || weir.log().iter().any(told)).await;
    until("its owner is told, too", async || {
        let verdicts = weir.admin_json("/api/v1/verdicts").await.to_string();
        verdicts.contains("PortUnavailable") && verdicts.contains("it is the listener `http` of the settings")
    })
    .await;
    for _ in 0..20 {
        assert_eq!(client::get(weir.http, HOST, "/").await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_another_process_has_is_told_to_the_owner_until_it_is_free() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let extra = gateway("extra", "").replace("port: 80", &format!("port: {}", address.port()))
        + &http_route("extra", "extra", "extra.example", "  - backendRefs: [{name: shop, port: 80}]\n");
    weir.apply("gateway.yaml", &extra);
    let told = async || weir.admin_json("/api/v1/verdicts").await.to_string().contains("PortUnavailable");
    until("the owner is told that the port is taken", told).await;
    drop(taken);
    until("the owner is told nothing any more", async || !told().await).await;
    assert_eq!(client::get(address, "extra.example", "/").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_route_and_certificate_changes_fail_no_request_and_close_nothing() {
    let _turn = turn::alone().await;
    let authority = Authority::new();
    let backends = backends(&["a", "b"]).await;
    let secured = ingress_with("secured", HOST, &[("/", "Prefix", "shop")], "cert", &[]);
    let base = scene::mixed(&backends, &[]) + &gateway("edge", "") + &secured;
    let certificate = |number: u32| tls_secret("cert", &authority.issue(&format!("c{number}"), &[HOST]));
    let weir = Weir::builder().file("base.yaml", &base).file("certificate.yaml", &certificate(0)).start().await;
    let load = Plan::mixed(&weir, HOST, GRPC_HOST).with_tls(weir.https, &authority).start();
    load.warm().await;
    let mut samples = Vec::new();
    for number in 1..=1000u32 {
        let start = match number % 4 {
            // A rule that says its number: added, changed and removed again.
            0 => {
                let rules = format!(
                    "  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Revision, value: \
                     \"{number}\"}}]}}}}]\n    backendRefs: [{{name: shop, port: 80, weight: {}}}]\n",
                    number % 7 + 1
                );
                weir.apply("route.yaml", &http_route("changing", "edge", "changing.example", &rules));
                let start = Instant::now();
                let revision = number.to_string();
                weir.until_served("changing.example", "/", |answer| answer.header("x-revision") == revision).await;
                start
            }
            1 => {
                let host = format!("h{number}.example");
                weir.apply("ingress.yaml", &ingress("coming", &host, "/", "shop"));
                let start = Instant::now();
                weir.until_served(&host, "/", |answer| answer.status == 200).await;
                start
            }
            2 => {
                weir.remove("ingress.yaml");
                let start = Instant::now();
                weir.until_served(&format!("h{}.example", number - 1), "/", |answer| answer.status == 404).await;
                start
            }
            _ => {
                weir.apply("certificate.yaml", &certificate(number));
                let start = Instant::now();
                let target = Target::tls(weir.https, authority.client(&[]), HOST);
                let label = format!("c{number}");
                eventually(&label, async || {
                    let certificate = target.certificate().await.map_err(|error| error.to_string())?;
                    let found = raw_contains(&certificate, label.as_bytes());
                    if found { Ok(()) } else { Err("another certificate".to_owned()) }
                })
                .await;
                start
            }
        };
        samples.push(start.elapsed());
    }
    let report = load.stop().await;
    let (median, worst) = median_and_worst(&mut samples);
    println!("1,000 changes: from the end of the write to the first answer, median {median:?}, worst {worst:?}");
    report.assert_clean("a thousand route and certificate changes", 20_000);
}

fn raw_contains(certificate: &[u8], label: &[u8]) -> bool {
    crate::harness::raw::find(certificate, label).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_rolling_replacements_of_all_endpoints_fail_no_request_and_close_nothing() {
    let _turn = turn::alone().await;
    let base = classes()
        + &plain_service("shop", "")
        + &ingress("shop", HOST, "/", "shop")
        + &plain_service("rpc", "kubernetes.io/h2c")
        + &ingress("rpc", GRPC_HOST, "/", "rpc");
    let listed = |backends: &[Backend]| {
        let all: Vec<_> = backends.iter().map(|backend| (backend.address(), Conditions::READY)).collect();
        slices("shop", &all) + &slices("rpc", &all)
    };
    let mut serving = backends(&["r0-0", "r0-1", "r0-2"]).await;
    let weir = Weir::builder().file("base.yaml", &base).file("slices.yaml", &listed(&serving)).start().await;
    let load = Plan::mixed(&weir, HOST, GRPC_HOST).start();
    load.warm().await;
    // What has been replaced stays until its streams have ended, as a pod that drains does.
    let mut leaving = Vec::new();
    for round in 1..=50 {
        for place in 0..3 {
            let new = Backend::start(&format!("r{round}-{place}")).await;
            leaving.push(std::mem::replace(&mut serving[place], new));
            weir.apply("slices.yaml", &listed(&serving));
            until("the new endpoint serves", async || serving[place].requests() > 3).await;
        }
    }
    let idle: Vec<u64> = leaving.iter().map(Backend::requests).collect();
    until("a thousand more requests", {
        let start = load.requests();
        let load = &load;
        async move || load.requests() > start + 1000
    })
    .await;
    let busy: Vec<_> = leaving
        .iter()
        .zip(&idle)
        .filter(|(backend, idle)| backend.requests() > **idle)
        .map(|(backend, _)| backend.name())
        .collect();
    assert!(busy.len() <= 3, "endpoints that were removed still get requests: {busy:?}");
    load.stop().await.assert_clean("fifty rolling replacements", 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_descriptors_are_back_after_many_changes() {
    let _turn = turn::alone().await;
    let (weir, _backend) = scene::one_backend().await;
    let change = async |number: usize| {
        let hosts: String = (0..50)
            .map(|host| ingress(&format!("i{host}"), &format!("h{host}-{number}.example"), "/", "shop"))
            .collect();
        weir.apply("many.yaml", &hosts);
        weir.until_served(&format!("h49-{number}.example"), "/", |answer| answer.status == 200).await;
    };
    for number in 0..30 {
        change(number).await;
    }
    let (memory, descriptors) = (weir.resident_bytes(), weir.descriptors());
    for number in 30..130 {
        change(number).await;
    }
    let (after, open) = (weir.resident_bytes(), weir.descriptors());
    println!("{} KiB resident before and {} KiB after a hundred changes", memory / 1024, after / 1024);
    assert!(after < memory + memory / 4 + (4 << 20), "{memory} bytes became {after}");
    assert!(open <= descriptors + 8, "{descriptors} descriptors became {open}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_object_harms_only_itself() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let bad = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: bad\nspec:\n  ingressClassName: weir\n  rules:\n  - host: \
               \"not a host!\"\n    http: {paths: [{path: relative, pathType: Exact, backend: {service: {name: shop, port: {number: 80}}}}]}\n---\n";
    weir.apply(
        "bad.yaml",
        &(bad.to_owned() + &service("fine", &[backend.address()]) + &ingress("fine", "fine.example", "/", "fine")),
    );
    weir.until_served("fine.example", "/", |answer| answer.status == 200).await;
    assert_eq!(weir.get(HOST, "/").await.status, 200);
    let verdicts = weir.admin_json("/api/v1/verdicts").await.to_string();
    assert!(verdicts.contains("bad"), "{verdicts}");
}
