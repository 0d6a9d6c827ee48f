//! TLS that does not come about: it is told apart from a connection that does not, and nothing is sent in clear.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Url};
use syncvault::decide::FailureKind;
use syncvault::transport::{ReqwestTransport, Timeouts};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{client, post, send};
use crate::chaos_server::ChaosServer;

/// A server with a certificate of its own, and the certificate.
struct TlsServer {
    url: Url,
    certificate: CertificateDer<'static>,
    serving: JoinHandle<()>,
}

impl TlsServer {
    async fn start(host: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .expect("a server");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        Self {
            url: Url::parse(&format!("https://localhost:{port}/?SECRET")).expect("url"),
            certificate,
            serving: tokio::spawn(shake_hands(listener, TlsAcceptor::from(Arc::new(config)))),
        }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Shakes hands, reads a little, and hangs up.
async fn shake_hands(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((stream, _)) = listener.accept().await {
        if let Ok(mut stream) = acceptor.accept(stream).await {
            let mut some = [0; 1024];
            if let Ok(read) = stream.read(&mut some).await {
                assert!(read > 0);
            }
        }
    }
}

async fn failure(url: Url, trusted: Option<&CertificateDer<'static>>) -> FailureKind {
    let mut timeouts = Timeouts::default();
    timeouts.connect = Duration::from_millis(500);
    let builder = trusted.into_iter().fold(client(), |builder, trusted| {
        let trusted = Certificate::from_der(trusted).expect("a certificate");
        builder.tls_certs_only([trusted])
    });
    let transport = ReqwestTransport::from_builder(builder, timeouts).expect("a client");
    let failure = send(&transport, post(url, "SECRET"))
        .await
        .expect_err("no answer");
    assert!(
        !format!("{failure} {failure:?}").contains("SECRET"),
        "{failure:?}"
    );
    failure.kind()
}

#[tokio::test]
async fn a_certificate_of_nobody_is_tls() {
    let server = TlsServer::start("localhost", |_| {}).await;
    assert_eq!(failure(server.url.clone(), None).await, FailureKind::Tls);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_a_kind_of_its_own() {
    let server = TlsServer::start("other.example", |_| {}).await;
    let kind = failure(server.url.clone(), Some(&server.certificate)).await;
    assert_eq!(kind, FailureKind::TlsName);
}

#[tokio::test]
async fn an_expired_certificate_is_tls() {
    let expire = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let server = TlsServer::start("localhost", expire).await;
    let kind = failure(server.url.clone(), Some(&server.certificate)).await;
    assert_eq!(kind, FailureKind::Tls);
}

#[tokio::test]
async fn what_breaks_after_the_handshake_is_interrupted() {
    let server = TlsServer::start("localhost", |_| {}).await;
    let kind = failure(server.url.clone(), Some(&server.certificate)).await;
    assert_eq!(kind, FailureKind::Interrupted);
}

#[tokio::test]
async fn a_server_without_tls_is_tls_and_sees_nothing_of_the_request() {
    let server = ChaosServer::start().await;
    let url = server.url().replace("http://", "https://") + "/path?SECRET";
    assert_eq!(
        failure(url.parse().expect("url"), None).await,
        FailureKind::Tls
    );
    assert!(!server.saw("SECRET") && !server.saw("/path"));
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn a_handshake_that_stalls_is_a_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://{}/", listener.local_addr().expect("address"));
    let kind = failure(url.parse().expect("url"), None).await;
    assert_eq!(kind, FailureKind::ConnectTimeout);
}

#[tokio::test]
async fn a_handshake_that_is_cut_is_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url: Url = format!("https://{}/", listener.local_addr().expect("address"))
        .parse()
        .expect("url");
    let cutting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 16];
            stream.set_zero_linger().expect("linger");
            if stream.read(&mut some).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(failure(url, None).await, FailureKind::Tls);
    cutting.abort();
}
