//! Faults, the control endpoint, and connections.

use std::io::ErrorKind;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use jiff::Timestamp;
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint, SimHandle};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::{STABLE_VERSION, SimClient, static_config};

#[tokio::test]
async fn control_endpoint_adds_and_removes_faults() {
    let client = SimClient::new(&static_config(1, 5));
    let once = json!({"endpoint": "ai_model_api_keys", "times": 1, "effect": {"kind": "status", "status": 503, "body": "html", "retry_after": 7}});
    let response = client
        .send_control(Method::POST, "faults", Some(once))
        .await;
    assert_eq!(response.status, 200);
    let response = client.get_keys("").await;
    assert_eq!(
        (response.status.as_u16(), response.header("retry-after")),
        (503, "7")
    );
    assert_eq!(response.header("content-type"), "text/html");
    let response = client.get_keys("").await;
    assert_eq!(response.status, 200, "the fault was for one request");
    let later = json!({"endpoint": "ai_model_api_keys", "after_seconds": 3600, "effect": {"kind": "reset"}});
    client
        .send_control(Method::POST, "faults", Some(later))
        .await;
    let response = client.get_keys("").await;
    assert_eq!(response.status, 200, "the fault is not active yet");
    let short = json!({"endpoint": "ai_model_api_keys", "for_seconds": 30, "effect": {"kind": "status", "status": 500}});
    client
        .send_control(Method::POST, "faults", Some(short))
        .await;
    assert_eq!(client.get_keys("").await.status, 500);
    client.clock.set_minutes(1);
    let response = client.get_keys("").await;
    assert_eq!(response.status, 200, "the fault has ended");
    let faults = client.send_control(Method::GET, "faults", None).await;
    assert_eq!(faults.json().as_array().unwrap().len(), 1);
    let faults = client.send_control(Method::DELETE, "faults", None).await;
    assert_eq!(faults.json(), json!([]));
    let unknown = json!({"endpoint": "ai_model_api_keys", "effect": {"kind": "storm"}});
    let response = client
        .send_control(Method::POST, "faults", Some(unknown))
        .await;
    assert_eq!(response.status, 400);
    let body = response.json();
    assert!(body["error"].as_str().unwrap().contains("storm"), "{body}");
    let requests = client.send_control(Method::GET, "requests", None).await;
    assert_eq!(requests.json()[0]["endpoint"], "ai_model_api_keys");
    let state = client.send_control(Method::GET, "state", None).await.json();
    assert_eq!(state["orgs"][0]["keys"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn redirect_and_reset_faults_take_effect() {
    let client = SimClient::new(&static_config(1, 5));
    let redirect = json!({"endpoint": "ai_model_api_keys", "times": 1, "effect": {"kind": "redirect", "location": "http://127.0.0.1:9/x"}});
    client
        .send_control(Method::POST, "faults", Some(redirect))
        .await;
    let response = client.get_keys("").await;
    assert_eq!(
        (response.status.as_u16(), response.header("location")),
        (307, "http://127.0.0.1:9/x")
    );
    let reset = json!({"endpoint": "ai_model_api_keys", "effect": {"kind": "reset"}});
    client
        .send_control(Method::POST, "faults", Some(reset))
        .await;
    let path = format!("/api/atlas/v2/orgs/{}/aiModelApiKeys", client.org);
    let request = Request::get(path).body(Body::empty()).unwrap();
    assert!(client.try_send(request).await.is_err());
    assert_eq!(client.sim.requests()[1].status, 0);
}

/// Sends a request for keys over a new connection and reads until its end.
async fn read_keys_over_socket(sim: &SimHandle) -> std::io::Result<String> {
    let address = sim.base_url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await?;
    let (org, token) = (&sim.org_ids()[0], sim.credentials().access_token);
    let request = format!(
        "GET /api/atlas/v2/orgs/{org}/aiModelApiKeys HTTP/1.1\r\nHost: {address}\r\nAccept: {STABLE_VERSION}\r\n\
         Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

#[tokio::test]
async fn connections_are_served_truncated_reset_and_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sim = SimHandle::start(listener, &static_config(1, 5), Timestamp::now).unwrap();
    let response = read_keys_over_socket(&sim).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("\"totalCount\":5"), "{response}");
    assert!(response.contains(&format!("{}/api/atlas/v2", sim.base_url())));

    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, Effect::TruncatedBody).times(1));
    let truncated = read_keys_over_socket(&sim).await.unwrap();
    assert!(!truncated.contains("totalCount"), "{truncated}");

    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, Effect::Reset));
    let error = read_keys_over_socket(&sim).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let address = sim.base_url().replace("http://", "");
    let idle = TcpStream::connect(&address).await.unwrap();
    tokio::time::timeout(Duration::from_mins(1), sim.stop())
        .await
        .expect("idle connections do not delay the shutdown");
    drop(idle);
    assert!(TcpStream::connect(&address).await.is_err());
}
