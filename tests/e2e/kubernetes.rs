//! Kubernetes manifests: `kubectl kustomize` builds each of them, the objects match the schemas and the restricted pod
//! security standard, and the exporter accepts the configuration of its container.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::run_command;
use serde_json::Value;

fn repo_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest_dir(name: &str) -> PathBuf {
    repo_root().join("packages/kubernetes").join(name)
}

fn read_repo_file(path: &str) -> String {
    std::fs::read_to_string(repo_root().join(path)).unwrap()
}

/// Builds the kustomization in `dir`.
fn build_kustomization(dir: &Path) -> String {
    let mut kubectl = Command::new("kubectl");
    let (code, built, error) = run_command(kubectl.arg("kustomize").arg(dir), &[]);
    assert_eq!(code, Some(0), "{}: {error}", dir.display());
    built
}

fn validate_manifest(text: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new("node");
    command.arg(repo_root().join("tests/kubernetes/validate.mjs"));
    command.arg(repo_root().join("target/node/node_modules"));
    run_command(&mut command, text.as_bytes())
}

/// Returns the objects of `texts`, after all of them were validated in one run.
fn valid_objects(texts: &[&str]) -> Vec<Vec<Value>> {
    let (code, objects, error) = validate_manifest(&texts.join("\n---\n"));
    assert_eq!(code, Some(0), "{error}");
    let objects: Vec<Value> = serde_json::from_str(&objects).unwrap();
    let mut objects = objects.into_iter();
    let count = |text: &&str| {
        text.lines()
            .filter(|line| line.starts_with("kind: "))
            .count()
    };
    let counts: Vec<usize> = texts.iter().map(count).collect();
    counts
        .iter()
        .map(|count| objects.by_ref().take(*count).collect())
        .collect()
}

/// Returns the only object of a kind.
fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "several objects of kind {kind}");
    first
}

fn kinds(objects: &[Value]) -> Vec<&str> {
    objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect()
}

/// Asserts the requirements of the "restricted" pod security standard.
fn assert_restricted(pod: &Value) {
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod[field].is_null());
    }
    let allowed = [
        "configMap",
        "secret",
        "persistentVolumeClaim",
        "emptyDir",
        "projected",
        "downwardAPI",
    ];
    for volume in pod["volumes"].as_array().unwrap() {
        let fields = volume.as_object().unwrap();
        let kind = fields.keys().find(|field| *field != "name").unwrap();
        assert!(allowed.contains(&kind.as_str()), "{kind}");
    }
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert!(security["capabilities"]["add"].is_null());
}

/// Runs `check --offline` with the arguments of the exporter's container, in a pod of the given name.
fn check_container(objects: &[Value], pod: &Value, pod_name: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let configs = objects
        .iter()
        .filter(|object| object["metadata"]["name"] == "atlas-ai-keys-exporter")
        .cloned()
        .collect::<Vec<_>>();
    let config = only(&configs, "ConfigMap");
    let text = config["data"]["config.yml"].as_str().unwrap();
    let text = text.replace(
        "/etc/atlas-ai-keys-exporter/secret",
        &dir.path().display().to_string(),
    );
    std::fs::write(dir.path().join("config.yml"), text).unwrap();
    for part in ["client-id", "client-secret"] {
        std::fs::write(dir.path().join(part), "x").unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command
        .env_clear()
        .env("HOSTNAME", pod_name)
        .args(["check", "--offline", "--config.file"])
        .arg(dir.path().join("config.yml"));
    let storage = format!("--storage.path={}", dir.path().join("state").display());
    for argument in pod["containers"][0]["args"].as_array().unwrap() {
        match argument.as_str().unwrap() {
            argument if argument.starts_with("--config.file=") => {}
            argument if argument.starts_with("--storage.path=") => _ = command.arg(&storage),
            argument => _ = command.arg(argument),
        }
    }
    let (code, output, error) = run_command(&mut command, &[]);
    (code, format!("{output}{error}"))
}

#[test]
fn base_manifests_are_valid_and_restricted() {
    let built = build_kustomization(&manifest_dir(""));
    let texts = [
        built.as_str(),
        &read_repo_file("dashboards/rules/configmap.yml"),
        &read_repo_file("packages/kubernetes/report.yaml"),
    ];
    let objects = valid_objects(&texts);
    // Kinds of the Prometheus operator would be rejected by a cluster without the operator.
    assert!(
        !kinds(&objects[0])
            .iter()
            .any(|kind| ["PodMonitor", "PrometheusRule"].contains(kind))
    );
    only(&objects[0], "NetworkPolicy");
    let deployment = only(&objects[0], "Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_restricted(pod);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(pod["containers"][0][probe]["httpGet"]["port"], "probes");
    }
    let image = format!("atlas-ai-keys-exporter:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(pod["containers"][0]["image"], image);
    let job = only(&objects[2], "CronJob");
    assert_restricted(&job["spec"]["jobTemplate"]["spec"]["template"]["spec"]);
    let (code, output) =
        check_container(&objects[0], pod, "atlas-ai-keys-exporter-7d9c5b8f6-x2x4z");
    assert_eq!(code, Some(0), "{output}");
    // The schemas reject values of another type, and TypeScript rejects unknown fields.
    let mut invalid = built.clone();
    for (valid, replacement) in [
        (
            "allowPrivilegeEscalation: false",
            "allowPrivilegeEscalation: never",
        ),
        ("periodSeconds: 20", "periodSecs: 20"),
    ] {
        assert!(invalid.contains(valid), "{valid}");
        invalid = invalid.replace(valid, replacement);
    }
    let (code, _, error) = validate_manifest(&invalid);
    assert_eq!(code, Some(1), "{error}");
    for part in ["must be boolean", "periodSecs"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn operator_overlay_adds_monitor_rules_and_dashboards() {
    let built = build_kustomization(&manifest_dir("overlays/operator"));
    assert!(
        !built.contains("honorLabels"),
        "the exporter has no label that Prometheus attaches"
    );
    let shipped = build_kustomization(&repo_root().join("dashboards/rules"));
    let [objects, shipped] = &valid_objects(&[&built, &shipped])[..] else {
        panic!("two texts");
    };
    let monitor = only(objects, "PodMonitor");
    let deployment = only(objects, "Deployment");
    assert_eq!(
        monitor["spec"]["selector"]["matchLabels"],
        deployment["spec"]["template"]["metadata"]["labels"]
    );
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    let ports = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(*endpoint, ports[0]["name"]);
    let rules = only(objects, "PrometheusRule");
    for object in [monitor, rules] {
        assert_eq!(object["metadata"]["namespace"], "atlas-ai-keys");
        assert_eq!(
            object["metadata"]["labels"]["release"],
            "kube-prometheus-stack"
        );
    }
    assert_eq!(
        shipped[0]["spec"], rules["spec"],
        "the overlay changes no rule"
    );
    let dashboards = objects
        .iter()
        .filter(|object| object["metadata"]["labels"]["grafana_dashboard"] == "1");
    assert_eq!(dashboards.count(), 3);
    let (code, _, error) =
        validate_manifest(&built.replace("scrapeTimeout: 30s", "scrapeTime: 30s"));
    assert!(code == Some(1) && error.contains("scrapeTime"), "{error}");
}

/// The number of shards is in two places, and the exporter takes its own from the name of the pod.
#[test]
fn shards_overlay_splits_organizations_between_pods() {
    let built = build_kustomization(&manifest_dir("overlays/shards"));
    let objects = valid_objects(&[&built]).remove(0);
    for kind in ["Deployment", "PersistentVolumeClaim"] {
        assert!(!kinds(&objects).contains(&kind), "{kind}");
    }
    let set = only(&objects, "StatefulSet");
    let service = only(&objects, "Service");
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(set["spec"]["serviceName"], service["metadata"]["name"]);
    assert_eq!(
        service["spec"]["selector"],
        set["spec"]["selector"]["matchLabels"]
    );
    let pod = &set["spec"]["template"]["spec"];
    assert_restricted(pod);
    let claim = &set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"];
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["mountPath"] == "/state");
    assert_eq!(mount.unwrap()["name"], *claim);
    let replicas = set["spec"]["replicas"].as_u64().unwrap();
    let arguments = pod["containers"][0]["args"].as_array().unwrap();
    let shard = format!("--atlas.shard=auto/{replicas}");
    assert!(arguments.iter().any(|argument| *argument == shard));
    let name = set["metadata"]["name"].as_str().unwrap();
    for ordinal in 0..replicas {
        let (code, output) = check_container(&objects, pod, &format!("{name}-{ordinal}"));
        assert_eq!(code, Some(0), "{output}");
    }
    let (code, output) = check_container(&objects, pod, &format!("{name}-{replicas}"));
    assert!(
        code == Some(2) && output.contains("--atlas.shard"),
        "{output}"
    );
}

/// Each dashboard has a separate `ConfigMap`, because together they exceed the size of the annotation in which
/// `kubectl apply` stores the applied object.
#[test]
fn dashboards_are_config_maps_for_the_sidecar() {
    const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
    let built = build_kustomization(&manifest_dir("dashboards"));
    let objects = valid_objects(&[&built]).remove(0);
    let mut files = Vec::new();
    for object in &objects {
        assert_eq!(object["kind"], "ConfigMap");
        assert_eq!(object["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(object["metadata"]["namespace"], "monitoring");
        let applied = serde_json::to_string(&object.to_string()).unwrap();
        assert!(applied.len() < MAX_ANNOTATION_BYTES, "{}", applied.len());
        for (name, text) in object["data"].as_object().unwrap() {
            let shipped = read_repo_file(&format!("dashboards/{name}"));
            assert_eq!(text.as_str().unwrap(), shipped);
            files.push(name.clone());
        }
    }
    files.sort();
    assert_eq!(files, ["exporter.json", "fleet.json", "report.json"]);
}

/// docs/install.md combines the parts in a kustomization beside a copy of the sources.
#[test]
fn documented_kustomization_combines_operator_and_shards() {
    let document = read_repo_file("docs/install.md");
    let mut blocks = document.split("```yaml\n").skip(1);
    let block = blocks.find(|block| block.contains("kind: Kustomization"));
    let (block, _) = block.unwrap().split_once("```").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sources = dir.path().join("atlas-ai-keys-exporter");
    std::os::unix::fs::symlink(repo_root(), sources).unwrap();
    std::fs::write(dir.path().join("kustomization.yaml"), block).unwrap();
    let config = "credentials:\n  - name: own\n    org_ids: ['60c4fd418ebe251047c50554']\n    \
                  client_id_file: /etc/atlas-ai-keys-exporter/secret/client-id\n    \
                  client_secret_file: /etc/atlas-ai-keys-exporter/secret/client-secret\n";
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    let objects = valid_objects(&[&build_kustomization(dir.path())]).remove(0);
    only(&objects, "PodMonitor");
    only(&objects, "PrometheusRule");
    let policy = only(&objects, "NetworkPolicy");
    let scraper = &policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"];
    assert_eq!(
        scraper["matchLabels"]["kubernetes.io/metadata.name"],
        "observability"
    );
    let set = only(&objects, "StatefulSet");
    let pod = &set["spec"]["template"]["spec"];
    let image = pod["containers"][0]["image"].as_str().unwrap();
    assert!(image.starts_with("registry.example.com/"), "{image}");
    let configs = objects
        .iter()
        .filter(|object| object["data"]["config.yml"] == config);
    assert_eq!(configs.count(), 1);
    let (code, output) = check_container(&objects, pod, "atlas-ai-keys-exporter-2");
    assert_eq!(code, Some(0), "{output}");
}
