//! Connections over TLS, for a gateway that a BackendTLSPolicy has speak it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    /// One that is slow to say hello holds nobody else.
    handshakes: JoinSet<io::Result<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    /// With a chain of certificates and their key, both as PEM.
    pub fn new(tcp: TcpListener, certificate: &str, key: &str) -> anyhow::Result<Self> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>().context("TLS_CERTIFICATE")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("TLS_KEY")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = versions.with_no_client_auth().with_single_cert(chain, key).context("TLS_CERTIFICATE and TLS_KEY")?;
        Ok(Self { tcp, acceptor: TlsAcceptor::from(Arc::new(config)), handshakes: JoinSet::new() })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (stream, from) = Listener::accept(&mut self.tcp) => {
                    let handshake = self.acceptor.accept(stream);
                    self.handshakes.spawn(async move { Ok((handshake.await?, from)) });
                }
                Some(done) = self.handshakes.join_next() => {
                    // Who gives up its handshake, as a probe of the port does, is no client.
                    if let Ok(Ok(client)) = done {
                        return client;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
