//! The demo's folder of manifests: what the user may edit is written once and then left alone; what depends on this run
//! (ports, certificate) is written anew every time. One demo owns a folder at a time, by a lock on a file in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::shop::Pod;

/// Written when missing, never touched again.
const KEPT: [(&str, &str); 3] = [
    ("classes.yaml", include_str!("../../../config/default/classes.yaml")),
    ("shop.yaml", include_str!("../../../config/default/shop.yaml")),
    ("reviews.yaml", include_str!("../../../config/default/reviews.yaml")),
];
const PODS: &str = include_str!("../../../config/default/pods.yaml");

/// Names in the certificate.
const HOSTS: [&str; 5] = ["localhost", "*.localhost", "shop.localhost", "127.0.0.1", "::1"];

/// A folder that this process owns until it ends.
#[derive(Debug)]
pub(super) struct Folder {
    /// Where it is, as the user would write it.
    pub path: PathBuf,
    /// Files of an earlier demo that were left as they are.
    pub kept: Vec<&'static str>,
    _lock: File,
}

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system says no.
    #[error("cannot write the demo's manifests to {path}: {source}; choose another folder with --dir")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Another demo runs there.
    #[error("another `weir demo` uses {path}; choose another folder with --dir")]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// No certificate could be made.
    #[error("cannot make a self-signed certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl Folder {
    /// Takes the folder `path` (made if missing) and fills it.
    ///
    /// # Errors
    /// When another demo owns it or something cannot be written.
    pub fn open(path: &Path, pods: &[Arc<Pod>]) -> Result<Self, FolderError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| FolderError::Write { path, source }
        };
        fs::create_dir_all(path).map_err(failed(path))?;
        let lock_path = path.join(".lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Taken { path: path.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(FolderError::Write { path: lock_path, source }),
        }
        let mut kept = Vec::new();
        for (name, text) in KEPT {
            let file = path.join(name);
            match OpenOptions::new().create_new(true).write(true).open(&file) {
                Ok(mut open) => open.write_all(text.as_bytes()).map_err(failed(&file))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => kept.push(name),
                Err(error) => return Err(failed(&file)(error)),
            }
        }
        let secret = certificate()?;
        let file = path.join("certificate.yaml");
        replace(&file, &secret).map_err(failed(&file))?;
        let file = path.join("pods.yaml");
        replace(&file, &with_endpoints(PODS, pods)).map_err(failed(&file))?;
        Ok(Self { path: path.to_path_buf(), kept, _lock: lock })
    }
}

/// Fills `${service-color}` and `${service}` with the addresses of the pods.
fn with_endpoints(text: &str, pods: &[Arc<Pod>]) -> String {
    let mut text = text.to_owned();
    for pod in pods {
        let key = if pod.color.is_empty() { pod.service.to_owned() } else { format!("{}-{}", pod.service, pod.color) };
        let addresses: Vec<_> = pods
            .iter()
            .filter(|other| (other.service, other.color) == (pod.service, pod.color))
            .map(|other| other.address.to_string())
            .collect();
        text = text.replace(&format!("${{{key}}}"), &addresses.join(","));
    }
    text
}

/// A self-signed certificate as the manifest of a Secret.
fn certificate() -> Result<String, FolderError> {
    let mut parameters = rcgen::CertificateParams::new(HOSTS.map(str::to_owned))?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "Weir demo");
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some("demo-certificate".to_owned()),
            namespace: Some("demo".to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(
            [
                ("tls.crt".to_owned(), ByteString(certificate.pem().into_bytes())),
                ("tls.key".to_owned(), ByteString(key.serialize_pem().into_bytes())),
            ]
            .into(),
        ),
        ..Secret::default()
    };
    // JSON is YAML; nobody edits this file.
    let text = serde_json::to_string_pretty(&secret).expect("a Secret of strings is JSON");
    Ok(format!("# Self-signed, written anew by every `weir demo`; trusted by nobody.\n{text}\n"))
}

/// Replaces a file as a whole, so that no reader sees half of it; only the user may read it (one holds a private key).
fn replace(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn pods() -> Vec<Arc<Pod>> {
        let pod = |service, color, name, port| {
            Arc::new(Pod { service, color, version: "v1", name, address: SocketAddr::from(([127, 0, 0, 1], port)) })
        };
        vec![
            pod("shop", "blue", "b1", 1001),
            pod("shop", "blue", "b2", 1002),
            pod("shop", "green", "g1", 1003),
            pod("reviews", "", "r1", 1004),
        ]
    }

    #[test]
    fn every_placeholder_is_filled() {
        let text = with_endpoints(PODS, &pods());
        assert!(!text.contains("${"), "{text}");
        for wanted in ["\"127.0.0.1:1001,127.0.0.1:1002\"", "\"127.0.0.1:1003\"", "\"127.0.0.1:1004\""] {
            assert!(text.contains(wanted), "{wanted} is missing: {text}");
        }
    }

    #[test]
    fn edited_files_survive_the_next_demo_and_a_second_one_is_refused_meanwhile() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("deep/demo");
        let first = Folder::open(&path, &pods()).unwrap();
        assert!(first.kept.is_empty());
        assert!(matches!(Folder::open(&path, &pods()), Err(FolderError::Taken { .. })));
        fs::write(path.join("shop.yaml"), "# mine\n").unwrap();
        fs::write(path.join("pods.yaml"), "# stale\n").unwrap();
        drop(first);
        let second = Folder::open(&path, &pods()).unwrap();
        assert_eq!(second.kept, ["classes.yaml", "shop.yaml", "reviews.yaml"]);
        assert_eq!(fs::read_to_string(path.join("shop.yaml")).unwrap(), "# mine\n");
        assert!(fs::read_to_string(path.join("pods.yaml")).unwrap().contains("127.0.0.1:1001"));
    }

    #[test]
    fn the_certificate_is_a_secret_with_a_matching_pair() {
        let text = certificate().unwrap();
        let json = text.split_once('\n').unwrap().1;
        let secret: Secret = serde_json::from_str(json).unwrap();
        assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
        let data = secret.data.unwrap();
        let key = rcgen::KeyPair::from_pem(std::str::from_utf8(&data["tls.key"].0).unwrap()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&data["tls.crt"].0).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), rcgen::PublicKeyData::der_bytes(&key));
    }
}
