//! The container image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{SourceCopy, assert_same_file, assert_success};
use serde_json::{Value, json};

/// An OCI archive, unpacked.
struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    fn unpack(archive: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar");
        assert_success(tar.arg("-xf").arg(archive).arg("-C").arg(dir.path()));
        Self { dir }
    }

    /// Returns the path of the blob that a descriptor names.
    fn blob(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        self.dir.path().join("blobs").join(digest)
    }

    fn json(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn manifest(&self) -> Value {
        let index = Self::json(&self.dir.path().join("index.json"));
        Self::json(&self.blob(&index["manifests"][0]))
    }

    fn config(&self) -> Value {
        Self::json(&self.blob(&self.manifest()["config"]))
    }

    /// Returns mode, owner and path of each file in the layers.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for layer in self.manifest()["layers"].as_array().unwrap() {
            let mut tar = Command::new("tar");
            tar.args(["--numeric-owner", "-tvzf"]).arg(self.blob(layer));
            for line in assert_success(&mut tar).lines() {
                let columns: Vec<&str> = line.split_whitespace().collect();
                files.push(format!("{} {} /{}", columns[0], columns[1], columns[5]));
            }
        }
        files
    }
}

#[test]
fn image_is_reproducible_and_matches_dockerfile() {
    let copies = [SourceCopy::new("u+rwX"), SourceCopy::new("go-rwx")];
    // The contents of the binary do not matter here: `make release` runs the image.
    for copy in &copies {
        let binary = copy.dir.path().join("binary");
        std::fs::write(&binary, "binary").unwrap();
        let mut command = copy.command("image", &binary);
        assert_success(command.env("BUILD_REVISION", "0123456789ab"));
    }
    let archive = copies[0].output_file();
    assert_same_file(&archive, &copies[1].output_file());
    let image = Image::unpack(&archive);
    assert_eq!(
        image.files(),
        [
            "-rwxr-xr-x 0/0 /atlas-ai-keys-exporter",
            "drwxr-xr-x 0/0 /etc/",
            "drwxr-xr-x 0/0 /etc/ssl/",
            "drwxr-xr-x 0/0 /etc/ssl/certs/",
            "-rw-r--r-- 0/0 /etc/ssl/certs/ca-certificates.crt",
            "drwxr-xr-x 65532/65532 /state/",
        ]
    );
    let config = image.config();
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    let config = &config["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/atlas-ai-keys-exporter"]));
    assert_eq!(config["Volumes"], json!({"/state": {}}));
    assert_eq!(
        config["ExposedPorts"],
        json!({"10064/tcp": {}, "10066/tcp": {}})
    );
    let label = |name: &str| &config["Labels"][format!("org.opencontainers.image.{name}")];
    assert_eq!(label("title"), env!("CARGO_PKG_NAME"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("revision"), "0123456789ab");
    assert_eq!(label("created"), "2023-11-14T22:13:20Z");
    assert_eq!(label("source"), &Value::Null);
    // A container engine builds the same files: the first stage of the Dockerfile runs the same scripts.
    let dockerfile = include_str!("../../../packages/Dockerfile");
    let (build, last) = dockerfile.split_once("\nFROM scratch\n").unwrap();
    assert!(build.contains(
        "RUN BUILD_REVISION=$(printf %.12s \"$BUILD_REVISION\") packages/static && \
         packages/image-root \"$(packages/static --where)\" /image\n"
    ));
    // The labels above have values from build arguments, which a user of a container engine must know.
    let arguments: BTreeSet<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("ARG ")?.split('=').next())
        .collect();
    let manual = include_str!("../../../docs/install.md");
    let documented: BTreeSet<&str> = manual
        .split("--build-arg ")
        .skip(1)
        .filter_map(|rest| rest.split('=').next())
        .collect();
    assert_eq!(arguments, documented);
    let copied: Vec<&str> = last
        .lines()
        .filter(|line| line.starts_with("COPY "))
        .map(|line| line.split(' ').next_back().unwrap())
        .collect();
    assert_eq!(copied, ["/etc", "/atlas-ai-keys-exporter", "/state"]);
}
