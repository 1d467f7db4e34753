//! How the API server is reached: a kubeconfig, or the service account of the pod that this is.

use std::path::{Path, PathBuf};

use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is no word on where the API server is.
    #[error(
        "provider.kubernetes: there is no kubeconfig at {}; give --kubeconfig FILE, set KUBECONFIG, or run in a pod",
        path.display()
    )]
    NoKubeconfig {
        /// Where one would be looked for.
        path: PathBuf,
    },
    /// The kubeconfig does not say enough.
    #[error("{from}: {problem}; compare it with what `kubectl config view` shows")]
    Kubeconfig {
        /// The file, or the variable that named it.
        from: String,
        /// What is wrong.
        problem: String,
    },
    /// The pod's service account is not there.
    #[error("provider.kubernetes: {problem}; leave automountServiceAccountToken at true, or give --kubeconfig FILE")]
    ServiceAccount {
        /// What is wrong.
        problem: String,
    },
    /// No client can be made of it.
    #[error(
        "provider.kubernetes: no connection can be made to {server}: {problem}; correct the CA and the client certificate or the token"
    )]
    Client {
        /// The API server.
        server: String,
        /// What is wrong.
        problem: String,
    },
    /// No thread or runtime can be made.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Reads where the API server is and who this is.
///
/// # Errors
/// When nothing says so, or not enough. The server itself is not asked.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, KubernetesError> {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let mut config = match (kubeconfig, named) {
        (Some(path), _) => from_file(path).await?,
        (None, Some(value)) => {
            let wrong =
                |error| KubernetesError::Kubeconfig { from: "KUBECONFIG".to_owned(), problem: say(&value, error) };
            Config::from_kubeconfig(&KubeConfigOptions::default()).await.map_err(wrong)?
        }
        (None, None) if in_pod() => {
            Config::incluster().map_err(|error| KubernetesError::ServiceAccount { problem: error.to_string() })?
        }
        (None, None) => {
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
            from_file(&home.join(".kube/config")).await?
        }
    };
    // The watches have their own patience, and what fails is to be told, not tried again in silence.
    config.default_retry = false;
    Ok(config)
}

/// Whether this process runs in a pod.
pub fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty())
}

async fn from_file(path: &Path) -> Result<Config, KubernetesError> {
    let wrong = |error| match error {
        KubeconfigError::ReadConfig(error, path) if error.kind() == std::io::ErrorKind::NotFound => {
            KubernetesError::NoKubeconfig { path }
        }
        error => KubernetesError::Kubeconfig { from: path.display().to_string(), problem: error.to_string() },
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)
}

fn say(value: &std::ffi::OsStr, error: KubeconfigError) -> String {
    format!("{error} (it is {})", value.to_string_lossy())
}
