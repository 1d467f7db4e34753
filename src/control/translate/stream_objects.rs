//! TCPRoute and UDPRoute as written (`gateway.networking.k8s.io/v1`). Both say the same things.

use gateway_api::apis::standard::tlsroutes::{TlsRouteParentRefs, TlsRouteRules};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// A TCPRoute.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TCPRoute {
    /// Name, age, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: StreamRouteSpec,
}

/// A UDPRoute.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct UDPRoute {
    /// Name, age, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: StreamRouteSpec,
}

/// What a TCPRoute or UDPRoute says.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRouteSpec {
    /// Which listeners it wants to be served at.
    pub parent_refs: Option<Vec<TlsRouteParentRefs>>,
    /// Where the traffic goes; the first rule counts.
    pub rules: Vec<TlsRouteRules>,
}
