//! Tests of the page in a browser: Debian's Chromium, controlled by chromedriver.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{ChildProcess, TestExporter, eventually, free_port, static_sim};
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};

/// A browser and its driver process.
struct Browser {
    client: Client,
    driver: String,
    _program: ChildProcess,
}

impl Browser {
    /// Opens a window of this size, in a light or dark color scheme.
    async fn open((width, height): (u32, u32), dark: bool) -> Self {
        let driver = format!("http://127.0.0.1:{}", free_port());
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", driver.rsplit(':').next().unwrap()));
        let mut program = ChildProcess::start(command);
        program.wait_for_output("started successfully");
        let size = format!("--window-size={width},{height}");
        // Without the sandbox, because tests also run as root; they open only the page.
        let mut arguments = vec![
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
            &size,
        ];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0");
        }
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let Value::Object(capabilities) = capabilities else {
            unreachable!()
        };
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver)
            .await
            .expect("chromedriver starts Chromium; `make test` installs both");
        Self {
            client,
            driver,
            _program: program,
        }
    }

    async fn navigate(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    async fn run_script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    async fn text(&self, selector: &str) -> String {
        self.texts(selector).await.join("\n")
    }

    /// Returns the texts of all matching elements. Retries if the page replaces them in the meantime.
    async fn texts(&self, selector: &str) -> Vec<String> {
        eventually(&format!("{selector} stays"), async || {
            let elements = self.client.find_all(Locator::Css(selector)).await.unwrap();
            let texts = elements.iter().map(fantoccini::elements::Element::text);
            let texts = futures_util::future::try_join_all(texts).await;
            if let Err(error) = &texts {
                assert!(error.is_stale_element_reference(), "{selector}: {error}");
            }
            texts
        })
        .await
    }

    /// Waits until an element has this text.
    async fn wait_text(&self, selector: &str, text: &str) {
        eventually(&format!("{selector} has the text {text:?}"), async || {
            let shown = self.text(selector).await;
            if shown.contains(text) {
                return Ok(());
            }
            Err(shown)
        })
        .await;
    }

    /// Sends chromedriver a command that is not part of the `WebDriver` protocol.
    async fn send_command(&self, path: &str, body: Value) -> Value {
        let session = self.client.session_id().await.unwrap().unwrap();
        let url = format!("{}/session/{session}/{path}", self.driver);
        crate::common::install_crypto_provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(url).header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await.unwrap();
        let text = response.text().await.unwrap();
        let response: Value = serde_json::from_str(&text).unwrap();
        assert!(response["value"]["error"].is_null(), "{text}");
        response["value"].clone()
    }

    /// Returns the log entries of one kind.
    async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.send_command("se/log", json!({"type": kind})).await;
        entries.as_array().unwrap().clone()
    }

    /// Emulates this size, because the size of a phone is below the minimum of a window.
    async fn assert_size(&self, (width, height): (u32, u32)) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        let body = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": size});
        self.send_command("goog/cdp/execute", body).await;
    }

    /// Disables the scripts of the page.
    async fn disable_scripts(&self) {
        let body =
            json!({"cmd": "Emulation.setScriptExecutionDisabled", "params": {"value": true}});
        self.send_command("goog/cdp/execute", body).await;
    }

    /// Asserts that the console is empty, and that all requests went to `base`.
    async fn assert_no_errors_and_no_external_requests(&self, base: &str) {
        let console = self.log("browser").await;
        assert!(console.is_empty(), "{console:?}");
        let mut requests = 0;
        for entry in self.log("performance").await {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            if message["message"]["method"] == "Network.requestWillBeSent" {
                let url = message["message"]["params"]["request"]["url"]
                    .as_str()
                    .unwrap();
                assert!(
                    url.starts_with(base) || url.starts_with("data:") || url.starts_with("about:"),
                    "{url}"
                );
                requests += 1;
            }
        }
        assert!(requests > 0, "the log contains no requests");
    }

    async fn close(self) {
        self.client.close().await.unwrap();
    }
}

async fn start_exporter() -> TestExporter {
    let exporter = TestExporter::start(static_sim(3, 1200), &["--atlas.poll-interval=1h"]).await;
    exporter.wait_polled().await;
    let orgs = exporter.sim.org_ids().len();
    eventually("names of all organizations", async || {
        let (_, targets) = exporter.get("/sd").await;
        let named = targets.matches("org_name").count();
        (named == orgs).then_some(()).ok_or(targets)
    })
    .await;
    exporter
}

#[tokio::test(flavor = "multi_thread")]
async fn page_loads_filters_and_sorts() {
    let exporter = start_exporter().await;
    let browser = Browser::open((1280, 1000), false).await;
    browser.navigate(&exporter.base_url).await;
    assert_eq!(browser.text("#all-keys").await, "1,200");
    let never = exporter.sim.with_world(|world| {
        let orgs = world.org_ids();
        orgs.iter()
            .flat_map(|org| world.keys(org))
            .filter(|key| key.last_used.is_none())
            .count()
    });
    assert_eq!(browser.text("#all-never").await, never.to_string());
    assert_eq!(browser.texts("article").await.len(), 3);
    // The longest-idle keys are first, and never-used keys are marked.
    let first = browser.texts("tbody tr:first-child td").await;
    assert!(first.contains(&"never used".to_owned()), "{first:?}");
    // The page filters while the user types.
    let (name, id) = exporter.sim.with_world(|world| {
        let key = &world.keys(&world.org_ids()[1])[5];
        (key.name.clone(), key.id.clone())
    });
    let field = browser.client.find(Locator::Css("#q")).await.unwrap();
    field.send_keys(&id[..12]).await.unwrap();
    browser.wait_text("#key-count", "1 key matching").await;
    let found = browser.texts("tbody th").await;
    assert!(
        found.len() == 1
            && found[0].contains(&id)
            && (found[0].contains(name.trim()) || name.contains('\t')),
        "{found:?} {name:?}"
    );
    let url = browser.client.current_url().await.unwrap();
    assert!(
        url.query().unwrap().contains("q="),
        "the URL contains the filter: {url}"
    );
    field.clear().await.unwrap();
    field.send_keys("no such key").await.unwrap();
    browser.wait_text("#key-count", "0 keys matching").await;
    assert!(browser.texts("tbody tr").await.is_empty());
    // The page can be sorted with the keyboard.
    browser.navigate(&exporter.base_url).await;
    browser
        .run_script("document.getElementById('by-name').focus()")
        .await;
    let active = browser.client.active_element().await.unwrap();
    active.send_keys("\u{e007}").await.unwrap();
    browser.wait_text("th[aria-sort=ascending]", "Key").await;
    assert_eq!(
        browser.run_script("return document.activeElement.id").await,
        "by-name",
        "the focus remains"
    );
    let names = browser.texts("tbody th bdi").await;
    let mut sorted = names.clone();
    sorted.sort_by_key(|name| name.to_lowercase());
    assert!(names.len() > 40 && names == sorted, "{names:?}");
    browser
        .client
        .find(Locator::Css("#next"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser
        .wait_text("#key-table nav.pager", "page 2 of 24")
        .await;
    browser
        .assert_no_errors_and_no_external_requests(&exporter.base_url)
        .await;
    browser.close().await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_shown_as_text() {
    let exporter = TestExporter::start(static_sim(1, 3), &["--atlas.poll-interval=1s"]).await;
    let org = exporter.sim.org_ids()[0].clone();
    let names = [
        "<script>document.title='broken'</script>",
        "{{7*7}}",
        "\"><img src=x onerror=\"document.title='broken'\">",
    ];
    exporter.sim.with_world(|world| {
        for name in names {
            world.create_key(&org, name).unwrap();
        }
    });
    eventually("the names are on the page", async || {
        let (_, page) = exporter.get("/").await;
        page.contains("{{7*7}}").then_some(()).ok_or(page)
    })
    .await;
    let browser = Browser::open((1280, 1000), false).await;
    browser.navigate(&exporter.base_url).await;
    let shown = browser.texts("tbody th bdi").await;
    for name in names {
        assert!(
            shown.iter().any(|shown| shown == name),
            "{name} in {shown:?}"
        );
    }
    let field = browser.client.find(Locator::Css("#q")).await.unwrap();
    field.send_keys("\"><img").await.unwrap();
    browser.wait_text("#key-count", "1 key matching").await;
    assert_eq!(
        browser.client.title().await.unwrap(),
        "Atlas AI keys exporter"
    );
    assert_eq!(browser.texts("img").await.len(), 0);
    browser
        .assert_no_errors_and_no_external_requests(&exporter.base_url)
        .await;
    browser.close().await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_works_without_javascript() {
    let exporter = start_exporter().await;
    let browser = Browser::open((1280, 1000), false).await;
    browser.disable_scripts().await;
    browser.navigate(&exporter.base_url).await;
    let field = browser.client.find(Locator::Css("#q")).await.unwrap();
    field.send_keys("prod").await.unwrap();
    // Without the script, the page filters only when the form is submitted.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(browser.text("#key-count").await, "1,200 keys");
    let button = browser
        .client
        .find(Locator::Css("form button"))
        .await
        .unwrap();
    button.click().await.unwrap();
    browser.wait_text("#key-count", "matching “prod”").await;
    assert!(!browser.texts("tbody th").await.is_empty());
    let by_name = browser.client.find(Locator::Css("#by-name")).await.unwrap();
    by_name.click().await.unwrap();
    browser.wait_text("th[aria-sort=ascending]", "Key").await;
    assert!(
        browser.text("#key-count").await.contains("matching “prod”"),
        "the filter remains"
    );
    browser.close().await;
    exporter.stop().await.stop().await;
}

/// Returns axe-core, which `make test` downloads from npm.
fn axe_script() -> String {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{} cannot be read ({error}); `make test` installs what the tests need",
            path.display()
        )
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn page_is_accessible_in_both_color_schemes() {
    let axe = axe_script();
    let exporter = start_exporter().await;
    for (size, dark, name) in [
        ((1280, 1000), false, "page-light"),
        ((1280, 1000), true, "page-dark"),
        ((390, 844), false, "page-phone-light"),
        ((390, 844), true, "page-phone-dark"),
    ] {
        let browser = Browser::open(size, dark).await;
        browser.assert_size(size).await;
        browser.navigate(&exporter.base_url).await;
        assert_eq!(
            browser
                .run_script("return matchMedia('(prefers-color-scheme: dark)').matches")
                .await,
            dark
        );
        let wide = browser.run_script("return document.documentElement.scrollWidth > document.documentElement.clientWidth").await;
        assert_eq!(wide, false, "no horizontal scrolling: {name}");
        browser.run_script(&axe).await;
        let report = browser.client.execute_async(
            "const done = arguments[arguments.length - 1]; axe.run(document, {resultTypes: ['violations', 'incomplete']}).then(done, (error) => done({error: String(error)}));",
            Vec::new(),
        );
        let report = report.await.unwrap();
        let found: Vec<String> = report["violations"]
            .as_array()
            .unwrap_or_else(|| panic!("{report}"))
            .iter()
            .map(|violation| format!("{}: {}", violation["id"], violation["nodes"]))
            .collect();
        assert!(found.is_empty(), "{name}: {}", found.join("\n"));
        let passed = report["passes"].as_array().map_or(0, Vec::len);
        assert!(passed > 10, "{passed} rules were checked");
        if let Some(directory) = std::env::var_os("SCREENSHOTS") {
            if size.0 < 500 {
                browser
                    .run_script("document.getElementById('keys').scrollIntoView()")
                    .await;
            }
            let picture = browser.client.screenshot().await.unwrap();
            std::fs::write(Path::new(&directory).join(format!("{name}.png")), picture).unwrap();
        }
        browser
            .assert_no_errors_and_no_external_requests(&exporter.base_url)
            .await;
        browser.close().await;
    }
    exporter.stop().await.stop().await;
}
