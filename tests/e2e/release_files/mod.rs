//! Release files: the Debian package and the container image of one binary are the same bytes in any folder, lintian
//! finds no error in the package, the RPM package has the same documents, and the image has the files and the settings of
//! the Dockerfile.

mod image;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::run_command;

/// Entries of the repository from which packages and images are built.
const SOURCES: [&str; 9] = [
    "CHANGELOG.md",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "dashboards",
    "docs",
    "packages",
    "systemd",
];

/// A copy of the sources in a separate folder, without a git repository. The names of all folders contain a space.
struct SourceCopy {
    dir: tempfile::TempDir,
}

impl SourceCopy {
    /// Copies the sources. `mode` is an argument of `chmod`, which makes the copies differ in modes.
    fn new(mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["source tree", "out dir", "tmp dir"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let mut copy = Command::new("cp");
        copy.arg("-r")
            .args(SOURCES.map(|name| root.join(name)))
            .arg(dir.path().join("source tree"));
        assert_success(&mut copy);
        let copy = Self { dir };
        let mut change = Command::new("chmod");
        assert_success(change.args(["-R", mode]).arg(copy.source()));
        copy
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source tree")
    }

    /// Returns a command that runs a script of the copy with the given binary and an empty output folder.
    fn command(&self, script: &str, binary: &Path) -> Command {
        let mut command = Command::new(self.source().join("packages").join(script));
        command
            .arg(binary)
            .arg(self.out())
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("TMPDIR", self.dir.path().join("tmp dir"))
            .env_remove("BUILD_REVISION")
            .env_remove("DEBEMAIL")
            .env_remove("DEBFULLNAME")
            .env_remove("SOURCE_URL");
        command
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out dir")
    }

    /// Returns the path of the only file in the output folder.
    fn output_file(&self) -> PathBuf {
        let mut files = std::fs::read_dir(self.out()).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }
}

/// Runs a command that must succeed, and returns its output.
fn assert_success(command: &mut Command) -> String {
    let (code, output, error) = run_command(command, &[]);
    assert_eq!(code, Some(0), "{command:?}: {output}{error}");
    output
}

/// Asserts that two files have the same name and the same bytes.
fn assert_same_file(one: &Path, other: &Path) {
    assert_eq!(one.file_name(), other.file_name());
    let equal = std::fs::read(one).unwrap() == std::fs::read(other).unwrap();
    assert!(equal, "{} differs from {}", one.display(), other.display());
}

fn deb_command(copy: &SourceCopy) -> Command {
    deb_command_with(copy, env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"))
}

fn deb_command_with(copy: &SourceCopy, binary: &str) -> Command {
    let mut command = copy.command("deb", Path::new(binary));
    // Strong compression of a debug build takes half a minute.
    command
        .env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
        .env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    command
}

#[test]
fn debian_package_is_reproducible_and_passes_lintian() {
    let copies = [SourceCopy::new("u+rwX"), SourceCopy::new("go-rwx")];
    // A package without a maintainer is not built.
    let (code, _, error) = run_command(&mut deb_command(&copies[0]), &[]);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("no maintainer: DEBEMAIL is not set"),
        "{error}"
    );
    assert!(
        error.contains("help: set DEBFULLNAME and DEBEMAIL"),
        "{error}"
    );
    for copy in &copies {
        let mut command = deb_command(copy);
        command
            .env("DEBFULLNAME", "Ada Lovelace")
            .env("DEBEMAIL", "ada@debian.org");
        assert_success(&mut command);
    }
    let package = copies[0].output_file();
    assert_same_file(&package, &copies[1].output_file());
    assert_eq!(debian_documents(&package), rpm_documents());
    let mut fields = Command::new("dpkg-deb");
    let control = assert_success(fields.arg("--field").arg(&package));
    assert!(
        control.contains("\nMaintainer: Ada Lovelace <ada@debian.org>\n"),
        "{control}"
    );
    assert!(!control.contains("Homepage"), "{control}");
    let mut lintian = Command::new("lintian");
    let found = assert_success(lintian.args(["--fail-on", "error"]).arg(&package));
    assert!(!found.contains("E: "), "{found}");
    // Lintian does find errors: a maintainer with the name root is one.
    let mut wrong = deb_command(&copies[0]);
    wrong
        .env("DEBFULLNAME", "root")
        .env("DEBEMAIL", "root@debian.org")
        .env("SOURCE_URL", "https://example.org/exporter");
    assert_success(&mut wrong);
    let mut fields = Command::new("dpkg-deb");
    let homepage = assert_success(fields.arg("--field").arg(&package).arg("Homepage"));
    assert_eq!(homepage.trim(), "https://example.org/exporter");
    let mut lintian = Command::new("lintian");
    lintian
        .args(["--fail-on", "error", "--tags", "root-in-contact"])
        .arg(&package);
    let (code, found, error) = run_command(&mut lintian, &[]);
    assert_eq!(code, Some(2), "{found}{error}");
}

#[test]
fn debian_package_requires_a_public_address() {
    let copy = SourceCopy::new("u+rwX");
    for address in [
        "root@localhost",
        "root@localhost.localdomain",
        "ada@host",
        "ada.lovelace@host",
        "root@LocalHost.LocalDomain",
        "ada@host.local",
        "ADA@HOST.LOCAL",
        "ada@vm.internal",
        "ada@nas.lan",
        "ada@nas.home.arpa",
        "ada@home.arpa",
        "ada@10.0.0.1",
        "ada@[10.0.0.1]",
        "ada@debian.org.",
        "ada@debian..org",
        "ada@debian.org>",
        "ada@host@debian.org",
        "@debian.org",
        "debian.org",
    ] {
        let mut command = deb_command(&copy);
        let (code, _, error) = run_command(command.env("DEBEMAIL", address), &[]);
        assert_eq!(code, Some(1), "{address}: {error}");
        let expected = format!("packages/deb: invalid address in DEBEMAIL: {address}: expected");
        assert!(error.contains(&expected), "{error}");
        assert!(error.contains("\nhelp: set DEBEMAIL"), "{error}");
    }
    // Other addresses with parts that look similar.
    for address in ["Ada@Local.Debian.ORG", "ada@10.0.0.1.debian.org"] {
        let script = ". packages/source; require_maintainer test; printf %s \"$maintainer\"";
        let mut source = Command::new("bash");
        source.args(["-euc", script]).current_dir(copy.source());
        source
            .env("DEBFULLNAME", "Ada Lovelace")
            .env("DEBEMAIL", address);
        assert_eq!(
            assert_success(&mut source),
            format!("Ada Lovelace <{address}>")
        );
    }
}

/// A release takes long to build, so `packages/release` validates the maintainer first.
#[test]
fn release_requires_a_maintainer_before_it_builds() {
    let copy = SourceCopy::new("u+rwX");
    let binary = copy.dir.path().join("binary");
    let (code, output, error) = run_command(&mut copy.command("release", &binary), &[]);
    assert_eq!((code, output.as_str()), (Some(1), ""), "{error}");
    let expected = "packages/release: no maintainer: DEBEMAIL is not set";
    assert!(error.starts_with(expected), "{error}");
    let mut command = copy.command("release", &binary);
    let (code, _, error) = run_command(command.env("DEBEMAIL", "ada@host.local"), &[]);
    assert_eq!(code, Some(1), "{error}");
    let expected = "packages/release: invalid address in DEBEMAIL: ada@host.local: expected";
    assert!(error.starts_with(expected), "{error}");
    let mut command = copy.command("release", &binary);
    command
        .env("DEBFULLNAME", "Lovelace, Ada")
        .env("DEBEMAIL", "ada@debian.org");
    let (code, _, error) = run_command(&mut command, &[]);
    assert_eq!(code, Some(1), "{error}");
    let expected = "packages/release: invalid name in DEBFULLNAME: Lovelace, Ada: expected";
    assert!(error.starts_with(expected), "{error}");
}

/// `make release` checks the size of the packaged program.
#[test]
fn size_of_the_packaged_program_is_limited() {
    let copy = SourceCopy::new("u+rwX");
    let check = |binary: &str| {
        let mut package = deb_command_with(&copy, binary);
        assert_success(package.env("DEBEMAIL", "ada@debian.org"));
        let mut check_size = Command::new(copy.source().join("packages/check-size"));
        run_command(check_size.arg(copy.output_file()), &[])
    };
    let (code, output, error) = check("/bin/true");
    assert_eq!(code, Some(0), "{output}{error}");
    // A debug build is too large.
    if cfg!(target_arch = "x86_64") {
        let (code, output, error) = check(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
        assert_eq!((code, output.as_str()), (Some(1), ""), "{error}");
        assert!(
            error.contains(": expected less than 11000000 bytes, got "),
            "{error}"
        );
    }
}

const DOCUMENTS: &str = "/usr/share/doc/atlas-ai-keys-exporter/";

/// Returns the documents in a Debian package, with their names in the source tree.
fn debian_documents(package: &Path) -> BTreeSet<String> {
    let mut contents = Command::new("dpkg-deb");
    let contents = assert_success(contents.arg("--contents").arg(package));
    let paths = contents
        .lines()
        .filter_map(|line| line.rsplit_once(" .")?.1.strip_prefix(DOCUMENTS));
    paths
        .filter(|path| !path.is_empty() && !path.ends_with('/'))
        .filter_map(|path| match path {
            // Debian requires these names.
            "changelog.gz" => Some("CHANGELOG.md"),
            "changelog.Debian.gz" => None,
            "copyright" => Some("LICENSE"),
            path => Some(path),
        })
        .map(str::to_owned)
        .collect()
}

/// Returns the documents that Cargo.toml lists for the RPM package.
fn rpm_documents() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = include_str!("../../../packages/rpm");
    let copied = script.lines().find(|line| line.starts_with("cp -r "));
    let copied: Vec<&str> = copied.unwrap().split(' ').collect();
    let mut documents = BTreeSet::new();
    for asset in include_str!("../../../Cargo.toml").lines() {
        let field = |name: &str| {
            asset
                .split_once(&format!("{name} = \""))?
                .1
                .split('"')
                .next()
        };
        let (Some(source), Some(dest)) = (field("source"), field("dest")) else {
            continue;
        };
        let Some(folder) = dest.strip_prefix(DOCUMENTS) else {
            continue;
        };
        assert!(asset.contains("doc = true"), "{asset}");
        let top = source.split('/').next().unwrap();
        assert!(copied.contains(&top), "packages/rpm does not copy {top}");
        let names = match source.strip_suffix("/*.md") {
            None => vec![source.to_owned()],
            Some(parent) => std::fs::read_dir(root.join(parent))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|it| it == "md"))
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect(),
        };
        documents.extend(names.into_iter().map(|name| folder.to_owned() + &name));
    }
    documents
}

#[test]
fn static_build_passes_flags_with_spaces() {
    let copy = SourceCopy::new("u+rwX");
    let stub = copy.dir.path().join("cargo");
    let script = "#!/bin/sh\nprintf '%s' \"$CARGO_ENCODED_RUSTFLAGS\"\n";
    std::fs::write(&stub, script).unwrap();
    std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy.source().join("packages/static"));
    command.env("CARGO", &stub).env("CARGO_HOME", "/cargo home");
    let flags = assert_success(&mut command);
    let source = format!("--remap-path-prefix={}=.", copy.source().display());
    assert_eq!(
        flags.split('\x1f').collect::<Vec<_>>(),
        [
            "-C",
            "target-feature=+crt-static",
            &source,
            "--remap-path-prefix=/cargo home=cargo",
        ]
    );
}

/// Cargo encodes some characters of a path in package ids, and others are special in a regular expression.
#[test]
fn bill_of_materials_has_relative_paths() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("source |tree[1]*.&^$%");
    for folder in ["packages", "src"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packages/relative-paths");
    std::fs::copy(script, tree.join("packages/relative-paths")).unwrap();
    let manifest = "[workspace]\n[package]\nname = \"exporter\"\nversion = \"0.1.0\"\n";
    std::fs::write(tree.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(tree.join("src/lib.rs"), "").unwrap();
    let cargo = |subcommand: &str| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([subcommand, "--offline"]).current_dir(&tree);
        assert_success(&mut cargo)
    };
    cargo("generate-lockfile");
    let id = cargo("pkgid");
    let url = id.split_once('#').unwrap().0;
    assert!(url.contains("source%20") && url.ends_with("%25"), "{url}");
    let relative_paths = |text: &str| {
        std::fs::write(tree.join("sbom.json"), text).unwrap();
        let mut command = Command::new(tree.join("packages/relative-paths"));
        command
            .arg(tree.join("sbom.json"))
            .env("CARGO", env!("CARGO"));
        run_command(&mut command, &[])
    };
    let text = |url: &str| {
        format!(
            "[\"{url}#exporter@0.1.0\", \"{url}/crates/toolkit#0.1.0\",\n\"pkg:cargo/a@1?download_url=file://.\"]\n"
        )
    };
    let relative = (Some(0), text("path+file://."), String::new());
    assert_eq!(relative_paths(&text(url)), relative);
    let (code, output, error) = relative_paths(&text(&format!("{url}-other")));
    assert_eq!((code, output.as_str()), (Some(1), ""), "{error}");
    assert!(error.contains("contains a path of this machine"), "{error}");
}
