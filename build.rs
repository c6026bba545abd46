//! Tells the binary what it was built from: the revision of the source and the compiler. Lists the runbooks that it embeds.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Writes names and contents of the runbooks as an expression.
fn list_runbooks() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("dashboards/runbooks");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut items = BTreeMap::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if let (Some(name), Some("md")) = (
            path.file_stem().and_then(OsStr::to_str),
            path.extension().and_then(OsStr::to_str),
        ) {
            let text = path.to_str().ok_or("the path is not UTF-8")?;
            let item = format!("({name:?}, include_str!({text:?})),");
            items.insert(name.to_owned(), item);
        }
    }
    let list: String = items.into_values().collect();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("runbooks.rs"), format!("&[{list}]"))?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    list_runbooks()?;
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/index");
    println!("cargo::rerun-if-env-changed=BUILD_REVISION");
    let revision = env::var("BUILD_REVISION")
        .ok()
        .or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&rustc, &["--version"]);
    let version = version
        .as_deref()
        .and_then(|text| text.split(' ').nth(1))
        .unwrap_or("unknown");
    println!("cargo::rustc-env=BUILD_REVISION={revision}");
    println!("cargo::rustc-env=BUILD_RUSTVERSION={version}");
    // cargo always tells it
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=BUILD_TARGET={target}");
    Ok(())
}
