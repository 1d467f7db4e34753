//! Which channel of the Gateway API is installed: fields of the experimental one exist only there.

use std::time::Duration;

use serde_json::Value;

use super::remote::{DEFINITION, Refusal, Remote};

/// The definition that is looked at; all of a release are of one channel.
const CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";
const CHANNEL: &str = "gateway.networking.k8s.io/channel";
/// How long the start may wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the API server. Without an answer it is the standard channel, of which every other is a superset.
pub async fn is_experimental(remote: &Remote) -> bool {
    let answer = tokio::time::timeout(PATIENCE, remote.read(&DEFINITION.path("", CLASSES))).await;
    match answer.unwrap_or_else(|_| Err(Refusal::Away("it does not answer in time".to_owned()))) {
        Ok(definition) => says_experimental(&definition),
        Err(Refusal::Absent) => false,
        Err(refusal) => {
            tracing::info!(
                "the channel of the Gateway API is not known, and taken for the standard one: {}; the rule for it is {}",
                refusal.text(),
                DEFINITION.rule("", "get")
            );
            false
        }
    }
}

fn says_experimental(definition: &Value) -> bool {
    definition["metadata"]["annotations"][CHANNEL] == "experimental"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_an_annotation_of_the_definition() {
        let of = |channel: &str| serde_json::json!({"metadata": {"annotations": {CHANNEL: channel}}});
        assert!(says_experimental(&of("experimental")));
        assert!(!says_experimental(&of("standard")) && !says_experimental(&Value::Null));
    }
}
