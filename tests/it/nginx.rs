//! nginx, a server that others use, as a backend.

use http::Method;

use crate::harness::client::{H1, H2, Target, full, request};
use crate::harness::nginx::Nginx;
use crate::harness::scene::HOST;
use crate::harness::{tools, turn};
use crate::headers::weir_before;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_ranges_redirects_and_uploads_of_nginx_pass_unchanged() {
    let _turn = turn::beside_others().await;
    let page: Vec<u8> = (0..300_000u32).map(|index| (index * 7) as u8).collect();
    let server = "client_max_body_size 10m; absolute_redirect off; location = /moved { return 302 /page.bin; } location = /put { proxy_pass http://$server_addr:$server_port/length; \
                  proxy_set_header X-Length $content_length; } location = /length { return 200 $http_x_length; } location = /error { return 500 'no'; }";
    let nginx = Nginx::start(server, &[("page.bin", &page)]).await;
    let weir = weir_before(nginx.address).await;
    let target = Target::plain(weir.http);
    let mut h1 = H1::connect(&target).await.unwrap();
    let mut h2 = H2::connect(&target).await.unwrap();
    for _ in 0..3 {
        let answer = h1.get(HOST, "/page.bin").await.unwrap();
        assert!(answer.body == page && answer.header("server").starts_with("nginx"));
        assert!(h2.get(HOST, "/page.bin").await.unwrap().body == page);
    }
    let range = request(Method::GET, HOST, "/page.bin").header("range", "bytes=1000-1999").body(full("")).unwrap();
    let answer = h1.ask(range).await.unwrap();
    assert_eq!(answer.status, 206);
    assert!(answer.body == page[1000..2000]);
    let moved = h1.get(HOST, "/moved").await.unwrap();
    assert_eq!((moved.status, moved.header("location")), (302, "/page.bin"));
    let put = request(Method::POST, HOST, "/put").body(full(vec![1; 2_000_000])).unwrap();
    assert_eq!(h1.ask(put).await.unwrap().text(), "2000000");
    assert_eq!(h1.get(HOST, "/error").await.unwrap().status, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_and_h2load_through_weir_to_nginx_lose_nothing() {
    let _turn = turn::beside_others().await;
    let nginx = Nginx::start("location = /hello { return 200 'hello from nginx'; }", &[]).await;
    let weir = weir_before(nginx.address).await;
    let url = format!("http://{}/hello", weir.http);
    let header = format!("Host: {HOST}");
    assert_eq!(tools::curl(&["-H", &header, &url]).await, "hello from nginx");
    let port = weir.http.port();
    let connect = format!("127.0.0.1:{port}");
    let url = format!("http://{HOST}:{port}/hello");
    for version in ["--h1", "--npn-list=h2"] {
        let counts =
            tools::h2load(&[version, "-n", "5000", "-c", "8", "-m", "8", "--connect-to", &connect, &url]).await;
        assert_eq!((counts.succeeded, counts.status_2xx), (5000, 5000), "{version}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_closing_a_kept_connection_after_each_hundred_requests_fails_nothing() {
    let _turn = turn::beside_others().await;
    let nginx = Nginx::start("location = /hello { keepalive_requests 100; return 200 hello; }", &[]).await;
    let weir = weir_before(nginx.address).await;
    let mut h1 = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for number in 0..1000 {
        assert_eq!(h1.get(HOST, "/hello").await.unwrap().status, 200, "number {number}");
    }
}
