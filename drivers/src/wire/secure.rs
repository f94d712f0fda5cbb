//! TLS 1.3 with raw public keys (RFC 7250): each end proves that it holds its Ed25519 key. Knows no frame and no socket.
//!
//! The one idea: there is nothing to issue, to trust or to expire. A client says which key it wants to meet and hears nothing else; a
//! server learns a key that is proved, and decides afterwards what it may do.

use super::{Identity, WireError};
use abi::ids::NodeKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring as provider, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, ServerConnection, SignatureScheme,
};
use std::sync::Arc;

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Nobody looks at it: a peer is known by its key.
const SERVER_NAME: &str = "una";

/// Makes the two ends of TLS connections for one identity.
pub struct Secure {
    provider: Arc<CryptoProvider>,
    own: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

impl Secure {
    pub fn new(identity: &Identity) -> Result<Secure, WireError> {
        let refused = |error: Error| WireError::Tls(error.to_string());
        let pkcs8 = PrivatePkcs8KeyDer::from(identity.pkcs8());
        let signing = provider::sign::any_eddsa_type(&pkcs8).map_err(refused)?;
        let public = CertificateDer::from([&SPKI_PREFIX[..], &identity.key().0].concat());
        let own = Arc::new(CertifiedKey::new(vec![public], signing));
        let provider = Arc::new(CryptoProvider {
            cipher_suites: match has_fast_aes() {
                true => vec![
                    provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
                    provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                ],
                false => vec![
                    provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                    provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
                ],
            },
            kx_groups: vec![provider::kx_group::X25519],
            ..provider::default_provider()
        });
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(refused)?
            .with_client_cert_verifier(Arc::new(Verifier {
                expected: None,
                known: provider.signature_verification_algorithms,
            }))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own.clone())));
        // A link lives long, so resuming sessions would save nothing and keep secrets around.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Secure { provider, own, server: Arc::new(server) })
    }

    /// The end that listens: it meets whoever comes.
    pub fn accept(&self) -> Result<Connection, Error> {
        Ok(Connection::Server(ServerConnection::new(self.server.clone())?))
    }

    /// The end that reaches out: it meets the holder of this key or nobody.
    pub fn connect(&self, expected: NodeKey) -> Result<Connection, Error> {
        let known = self.provider.signature_verification_algorithms;
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { expected: Some(expected), known }))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.own.clone())));
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let name = ServerName::try_from(SERVER_NAME).expect("a fixed and valid name");
        Ok(Connection::Client(ClientConnection::new(Arc::new(client), name)?))
    }
}

/// The key that the other end has proved to hold. `None` before the handshake is over.
pub fn proved(connection: &Connection) -> Option<NodeKey> {
    match connection.is_handshaking() {
        true => None,
        false => connection.peer_certificates()?.first().and_then(key_of),
    }
}

fn key_of(public: &CertificateDer) -> Option<NodeKey> {
    let key = public.as_ref().strip_prefix(&SPKI_PREFIX)?;
    Some(NodeKey(key.try_into().ok()?))
}

/// Without instructions for AES the other cipher is several times faster.
fn has_fast_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Takes Ed25519 keys and nothing else; a client only the one it wants.
#[derive(Debug)]
struct Verifier {
    expected: Option<NodeKey>,
    known: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn examine(&self, public: &CertificateDer) -> Result<(), Error> {
        match (key_of(public), self.expected) {
            (None, _) => Err(CertificateError::BadEncoding.into()),
            (Some(found), Some(expected)) if found != expected => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            (Some(_), _) => Ok(()),
        }
    }

    fn verify(
        &self, message: &[u8], public: &CertificateDer, signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(public.as_ref()),
            signed,
            &self.known,
        )
    }
}

/// What a client and a server ask of a verifier in the same words: TLS 1.3, raw keys, Ed25519, and nothing else.
macro_rules! only_raw_ed25519 {
    () => {
        fn verify_tls12_signature(
            &self, _: &[u8], _: &CertificateDer, _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
        }

        fn verify_tls13_signature(
            &self, message: &[u8], public: &CertificateDer, signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.verify(message, public, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self, public: &CertificateDer, _: &[CertificateDer], _: &ServerName, _: &[u8], _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.examine(public).map(|()| ServerCertVerified::assertion())
    }

    only_raw_ed25519!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self, public: &CertificateDer, _: &[CertificateDer], _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.examine(public).map(|()| ClientCertVerified::assertion())
    }

    only_raw_ed25519!();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries bytes between two ends until neither has any, and says what each thinks of it.
    fn meet(client: &mut Connection, server: &mut Connection) -> (Result<(), Error>, Result<(), Error>) {
        let mut ends = (Ok(()), Ok(()));
        for _ in 0..10 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut &bytes[..]).unwrap();
            ends.1 = ends.1.and(server.process_new_packets().map(|_| ()));
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &bytes[..]).unwrap();
            ends.0 = ends.0.and(client.process_new_packets().map(|_| ()));
        }
        ends
    }

    #[test]
    fn both_ends_learn_a_proved_key() {
        let (a, b) = (Identity::make().unwrap(), Identity::make().unwrap());
        let (mut client, mut server) =
            (Secure::new(&a).unwrap().connect(b.key()).unwrap(), Secure::new(&b).unwrap().accept().unwrap());
        assert_eq!(proved(&client), None);
        assert_eq!(meet(&mut client, &mut server), (Ok(()), Ok(())));
        assert_eq!((proved(&client), proved(&server)), (Some(b.key()), Some(a.key())));
    }

    #[test]
    fn another_key_than_the_wanted_is_not_met_and_learns_nothing() {
        let (a, b, c) = (Identity::make().unwrap(), Identity::make().unwrap(), Identity::make().unwrap());
        let (mut client, mut server) =
            (Secure::new(&a).unwrap().connect(c.key()).unwrap(), Secure::new(&b).unwrap().accept().unwrap());
        let (at_client, at_server) = meet(&mut client, &mut server);
        assert_eq!(at_client, Err(CertificateError::ApplicationVerificationFailure.into()));
        assert!(at_server.is_err());
        assert_eq!((proved(&client), proved(&server)), (None, None));
    }

    #[test]
    fn a_key_that_is_only_claimed_is_not_proved() {
        let (a, b) = (Identity::make().unwrap(), Identity::make().unwrap());
        // Shows the key of b and signs with that of a.
        let liar = Identity { key: b.key(), pkcs8: a.pkcs8().into() };
        let c = Identity::make().unwrap();
        let (mut client, mut server) =
            (Secure::new(&liar).unwrap().connect(c.key()).unwrap(), Secure::new(&c).unwrap().accept().unwrap());
        assert!(meet(&mut client, &mut server).1.is_err());
        assert_eq!(proved(&server), None);
        let (mut client, mut server) =
            (Secure::new(&c).unwrap().connect(b.key()).unwrap(), Secure::new(&liar).unwrap().accept().unwrap());
        assert!(meet(&mut client, &mut server).0.is_err());
        assert_eq!(proved(&client), None);
    }
}
