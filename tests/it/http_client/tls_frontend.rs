//! Servers in front of a simulated Atlas that record what they receive: one that terminates TLS, and an HTTP proxy.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::common::install_crypto_provider;
use crate::common::pki::TestPki;
use mongodb_atlas_sim::SimHandle;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Copies until the end of `from`, and passes all bytes to `record` first.
async fn copy_recorded(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    record: impl Fn(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        record(&buffer[..length]);
        to.write_all(&buffer[..length]).await?;
    }
}

/// Returns whether `bytes` contain `part`.
pub(super) fn contains(bytes: &[u8], part: &str) -> bool {
    bytes
        .windows(part.len())
        .any(|window| window == part.as_bytes())
}

/// A TLS server in front of a simulated Atlas.
pub(super) struct TlsFrontend {
    port: u16,
    shared: Arc<FrontendShared>,
    accept_task: JoinHandle<()>,
}

struct FrontendShared {
    upstream: SocketAddr,
    state: Mutex<FrontendState>,
}

struct FrontendState {
    /// `None` for a server that responds in plain text.
    acceptor: Option<TlsAcceptor>,
    /// Closes the connections that were accepted so far.
    close: CancellationToken,
    record: FrontendRecord,
}

/// The data that a frontend received.
#[derive(Clone, Default)]
pub(super) struct FrontendRecord {
    pub(super) connections: usize,
    /// Number of handshakes that failed.
    pub(super) failed_handshakes: usize,
    /// All bytes received after a handshake.
    pub(super) decrypted: Vec<u8>,
    /// All bytes received without TLS.
    pub(super) plain: Vec<u8>,
}

impl TlsFrontend {
    /// Starts a server with this certificate of `pki`.
    pub(super) async fn start(sim: &SimHandle, pki: &TestPki, certificate: &str) -> Self {
        let upstream = sim.base_url().strip_prefix("http://").unwrap().parse();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(FrontendShared {
            upstream: upstream.unwrap(),
            state: Mutex::new(FrontendState {
                acceptor: Some(acceptor(pki, certificate)),
                close: CancellationToken::new(),
                record: FrontendRecord::default(),
            }),
        });
        let accepting = Arc::clone(&shared);
        let accept_task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        Self {
            port,
            shared,
            accept_task,
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn record(&self) -> FrontendRecord {
        self.shared.lock().record.clone()
    }

    /// Replaces the certificate, and closes all connections.
    pub(super) fn set_certificate(&self, pki: &TestPki, certificate: &str) {
        self.set_acceptor(Some(acceptor(pki, certificate)));
    }

    /// Disables TLS, and closes all connections.
    pub(super) fn set_plain_text(&self) {
        self.set_acceptor(None);
    }

    fn set_acceptor(&self, acceptor: Option<TlsAcceptor>) {
        let mut state = self.shared.lock();
        state.acceptor = acceptor;
        state.record = FrontendRecord::default();
        std::mem::take(&mut state.close).cancel();
    }

    /// Closes the port and all connections.
    pub(super) async fn close(self) {
        self.accept_task.abort();
        let _ = self.accept_task.await;
        self.shared.lock().close.cancel();
    }
}

fn acceptor(pki: &TestPki, certificate: &str) -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(server_config(pki, certificate)))
}

/// Returns the configuration of a server with this certificate of `pki`.
pub(super) fn server_config(pki: &TestPki, certificate: &str) -> ServerConfig {
    install_crypto_provider();
    let chain = CertificateDer::from_pem_slice(pki.read(&format!("{certificate}.pem")).as_bytes());
    let key = PrivateKeyDer::from_pem_slice(pki.read(&format!("{certificate}.key")).as_bytes());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![chain.unwrap()], key.unwrap());
    config.unwrap()
}

impl FrontendShared {
    fn lock(&self) -> MutexGuard<'_, FrontendState> {
        self.state.lock().unwrap()
    }

    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let (acceptor, close) = {
            let mut state = self.lock();
            state.record.connections += 1;
            (state.acceptor.clone(), state.close.clone())
        };
        tokio::select! {
            () = close.cancelled() => Ok(()),
            result = async {
                match acceptor {
                    Some(acceptor) => self.serve_tls(stream, acceptor).await,
                    None => self.serve_plain_text(stream).await,
                }
            } => result,
        }
    }

    async fn serve_tls(&self, stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
        let stream = match acceptor.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                self.lock().record.failed_handshakes += 1;
                return Err(error);
            }
        };
        let (from_client, mut to_client) = tokio::io::split(stream);
        let upstream = TcpStream::connect(self.upstream).await?;
        let (mut from_atlas, to_atlas) = upstream.into_split();
        let record = |bytes: &[u8]| self.lock().record.decrypted.extend(bytes);
        tokio::select! {
            result = copy_recorded(from_client, to_atlas, record) => result,
            result = tokio::io::copy(&mut from_atlas, &mut to_client) => result.map(drop),
        }
    }

    async fn serve_plain_text(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut first = vec![0; 16 << 10];
        let length = stream.read(&mut first).await?;
        self.lock().record.plain.extend(&first[..length]);
        let response = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(response).await?;
        // All bytes are recorded until the client closes the connection.
        let record = |bytes: &[u8]| self.lock().record.plain.extend(bytes);
        copy_recorded(stream, tokio::io::sink(), record).await
    }
}

/// An HTTP proxy that connects all tunnels to one port of this host.
pub(super) struct ConnectProxy {
    port: u16,
    record: Arc<Mutex<ProxyRecord>>,
}

/// The data that a proxy received.
#[derive(Clone, Default)]
pub(super) struct ProxyRecord {
    /// The requests with all headers.
    pub(super) requests: Vec<String>,
    /// All bytes that clients sent through tunnels.
    pub(super) tunneled: Vec<u8>,
}

impl ConnectProxy {
    /// Starts a proxy. With `authorization`, requests must have this `Proxy-Authorization`.
    pub(super) async fn start(target: u16, authorization: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let record = Arc::<Mutex<ProxyRecord>>::default();
        let recording = Arc::clone(&record);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let record = Arc::clone(&recording);
                tokio::spawn(async move { tunnel(stream, target, authorization, &record).await });
            }
        });
        Self { port, record }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn record(&self) -> ProxyRecord {
        self.record.lock().unwrap().clone()
    }
}

async fn tunnel(
    mut client: TcpStream,
    target: u16,
    authorization: Option<&str>,
    record: &Mutex<ProxyRecord>,
) -> io::Result<()> {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        header.push(client.read_u8().await?);
    }
    let header = String::from_utf8_lossy(&header).into_owned();
    record.lock().unwrap().requests.push(header.clone());
    let is_authorized = authorization.is_none_or(|expected| {
        let expected = format!("proxy-authorization: {expected}");
        header
            .lines()
            .any(|line| line.eq_ignore_ascii_case(&expected))
    });
    if !is_authorized {
        let rejection = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"proxy\"\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(rejection.as_bytes()).await;
    }
    let upstream = TcpStream::connect(("127.0.0.1", target)).await?;
    client
        .write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        .await?;
    let (from_client, mut to_client) = client.into_split();
    let (mut from_atlas, to_atlas) = upstream.into_split();
    let record = |bytes: &[u8]| record.lock().unwrap().tunneled.extend(bytes);
    tokio::select! {
        result = copy_recorded(from_client, to_atlas, record) => result,
        result = tokio::io::copy(&mut from_atlas, &mut to_client) => result.map(drop),
    }
}
