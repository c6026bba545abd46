use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

fn loaded(content: u8) -> WebConfigLoad {
    WebConfigLoad {
        files: vec!["web.yml".into()],
        config: Ok(WebConfig::default()),
        content_digest: [content; 32],
        is_transient: false,
    }
}

type Load = Box<dyn Fn() -> WebConfigLoad + Send + Sync>;

#[tokio::test(start_paused = true)]
async fn panics_and_changing_files_are_errors() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let loads: [(&str, Load); 4] = [
        ("panic", Box::new(|| panic!("a bug"))),
        ("exit", Box::new(|| std::panic::panic_any(7))),
        (
            "second read panics",
            Box::new(move || {
                let count = counted.fetch_add(1, Ordering::SeqCst);
                assert!(count.is_multiple_of(2), "a bug");
                loaded(0)
            }),
        ),
        (
            "changes",
            Box::new(move || {
                loaded(u8::try_from(count.fetch_add(1, Ordering::SeqCst)).unwrap_or(0))
            }),
        ),
    ];
    for (name, load) in loads {
        let load = Arc::new(load);
        let result = load_until_stable(Path::new("web.yml"), move |_| load()).await;
        let error = result.config.expect_err(name);
        assert!(result.is_transient, "{name}");
        assert!(error.to_string().contains("web.yml"), "{name}: {error}");
        assert_eq!(result.files, [PathBuf::from("web.yml")]);
    }
}

#[tokio::test(start_paused = true)]
async fn load_requires_two_equal_consecutive_reads() {
    // The path differs from the other test: tasks for one path are serialized, and each test has its own clock.
    let contents = Arc::new(Mutex::new(vec![3, 3, 2, 1]));
    let remaining = Arc::clone(&contents);
    let load = move |_: &Path| loaded(contents.lock().expect("held").pop().unwrap_or(9));
    let result = load_until_stable(Path::new("stable.yml"), load).await;
    assert!(result.config.is_ok());
    assert_eq!(result.content_digest, [3; 32]);
    assert!(remaining.lock().expect("held").is_empty());
}
