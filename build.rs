//! Embeds the source revision and the compiler version in the binary. Renders the documents and runbooks that the exporter
//! serves.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Returns the name and the text of each Markdown file in `folder`.
fn read_documents(folder: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut documents = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if let (Some(name), Some("md")) = (
            path.file_stem().and_then(OsStr::to_str),
            path.extension().and_then(OsStr::to_str),
        ) {
            documents.insert(name.to_owned(), fs::read_to_string(&path)?);
        }
    }
    Ok(documents)
}

/// Returns the target of a link on the exporter: documents are at `-/docs/NAME`, runbooks at `-/docs/runbooks/NAME`. Returns
/// `None` for files that the exporter does not serve.
fn served_link(link: &str, folder: &Path, root: &Path) -> Option<String> {
    if link.starts_with("https://") || link.starts_with('#') {
        return Some(link.to_owned());
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let anchor = if anchor.is_empty() {
        String::new()
    } else {
        format!("#{anchor}")
    };
    let target = folder.join(file).canonicalize().ok()?;
    let name = target.file_name()?.to_str()?.strip_suffix(".md")?;
    let is_in = |folder: &str| target.parent() == Some(&root.join(folder));
    let from_runbook = folder.ends_with("runbooks");
    match (is_in("docs"), is_in("dashboards/runbooks"), from_runbook) {
        (true, _, true) => Some(format!("../{name}{anchor}")),
        (true, _, false) | (_, true, true) => Some(format!("{name}{anchor}")),
        (_, true, false) => Some(format!("runbooks/{name}{anchor}")),
        _ => None,
    }
}

/// Returns the id of a heading, as on GitHub.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|char| match char {
        ' ' => Some('-'),
        '-' | '_' => Some(char),
        _ if char.is_alphanumeric() => Some(char.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

/// Renders Markdown. HTML is rendered as text; images, and links to files that the exporter does not serve, are omitted.
fn render(text: &str, folder: &Path, root: &Path) -> String {
    let mut events: Vec<Event<'_>> = Vec::new();
    let mut heading = None;
    let mut dropped_links = 0;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Html(text) | Event::InlineHtml(text) => events.push(Event::Text(text)),
            Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => {}
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => match served_link(&dest_url, folder, root) {
                Some(link) => events.push(Event::Start(Tag::Link {
                    link_type,
                    dest_url: link.into(),
                    title,
                    id,
                })),
                None => dropped_links += 1,
            },
            Event::End(TagEnd::Link) if dropped_links > 0 => dropped_links -= 1,
            Event::Start(Tag::Heading { .. }) => {
                heading = Some(events.len());
                events.push(event);
            }
            Event::End(TagEnd::Heading(_)) => {
                let start = heading.take().unwrap_or(events.len());
                let texts = events.iter().skip(start).filter_map(|event| match event {
                    Event::Text(text) | Event::Code(text) => Some(&**text),
                    _ => None,
                });
                let anchor = slug(&texts.collect::<String>());
                if let Some(Event::Start(Tag::Heading { id, .. })) = events.get_mut(start) {
                    *id = Some(CowStr::from(anchor));
                }
                events.push(event);
            }
            event => events.push(event),
        }
    }
    let mut page = String::new();
    html::push_html(&mut page, events.into_iter());
    page
}

/// Writes name, title and HTML of each document and each runbook into two constants.
fn embed_documents() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).canonicalize()?;
    let mut code = String::new();
    for (constant, folder) in [("DOCS", "docs"), ("RUNBOOKS", "dashboards/runbooks")] {
        let folder = root.join(folder);
        writeln!(code, "const {constant}: &[Document] = &[")?;
        for (name, text) in read_documents(&folder)? {
            let title = text.lines().find_map(|line| line.strip_prefix("# "));
            let title = title.unwrap_or(&name);
            let html = render(&text, &folder, &root);
            writeln!(
                code,
                "Document {{ name: {name:?}, title: {title:?}, html: {html:?} }},"
            )?;
        }
        writeln!(code, "];")?;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("documents.rs"), code)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    embed_documents()?;
    println!("cargo::rerun-if-changed=build.rs");
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
    // Cargo always sets TARGET.
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=BUILD_TARGET={target}");
    Ok(())
}
