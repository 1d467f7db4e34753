//! What Weir claims to do of the Gateway API, in the API's own words (`status.supportedFeatures` of a GatewayClass).
//!
//! The names are those of the package `features` of Gateway API 1.6. A test of the official suite stands behind each.

/// With the fields of the standard channel. Sorted.
const STANDARD: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// The same with the fields of the experimental channel.
const EXPERIMENTAL: &[&str] = &EXPERIMENTAL_LIST;

const EXPERIMENTAL_LIST: [&str; STANDARD.len() + 3] = {
    let mut list = [""; STANDARD.len() + 3];
    let (mut from, mut to) = (0, 0);
    while from < STANDARD.len() {
        list[to] = STANDARD[from];
        to += 1;
        // After `HTTPRouteResponseHeaderModification`.
        if from == RETRIES_AFTER {
            list[to] = "HTTPRouteRetry";
            list[to + 1] = "HTTPRouteRetryBackendTimeout";
            list[to + 2] = "HTTPRouteRetryConnectionError";
            to += 3;
        }
        from += 1;
    }
    list
};

/// Where the features of the experimental channel stand in the alphabet.
const RETRIES_AFTER: usize = 36;

/// The features that are claimed, sorted; those of the experimental channel only if its fields exist.
pub(super) fn claimed(experimental: bool) -> &'static [&'static str] {
    if experimental { EXPERIMENTAL } else { STANDARD }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_are_sorted_and_name_each_feature_once() {
        for list in [STANDARD, EXPERIMENTAL] {
            assert!(list.is_sorted_by(|one, two| one < two), "{list:?}");
        }
        assert_eq!(EXPERIMENTAL.iter().filter(|it| !STANDARD.contains(it)).count(), 3);
    }
}
