//! Scenes that many tests begin with.

use super::backend::Backend;
use super::manifests::{classes, ingress, service, service_with};
use super::weir::Weir;

/// The host of [`one_backend`].
pub const HOST: &str = "shop.example";
/// The host of gRPC in [`mixed`].
pub const GRPC_HOST: &str = "rpc.example";

/// One backend behind everything below [`HOST`].
pub async fn one_backend() -> (Weir, Backend) {
    let backend = Backend::start("blue").await;
    let weir = Weir::start(&shop(&backend)).await;
    (weir, backend)
}

/// The manifests of [`one_backend`].
pub fn shop(backend: &Backend) -> String {
    classes() + &service("shop", &[backend.address()]) + &ingress("shop", HOST, "/", "shop")
}

/// Classes, and one Service with one Ingress at [`HOST`] and one with gRPC at [`GRPC_HOST`], on the same endpoints.
pub fn mixed(backends: &[Backend], annotations: &[(&str, &str)]) -> String {
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    classes()
        + &service_with("shop", &addresses, annotations, "")
        + &ingress("shop", HOST, "/", "shop")
        + &service_with("rpc", &addresses, annotations, "kubernetes.io/h2c")
        + &ingress("rpc", GRPC_HOST, "/", "rpc")
}

/// Backends with these names.
pub async fn backends(names: &[&str]) -> Vec<Backend> {
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::start(name).await);
    }
    backends
}
