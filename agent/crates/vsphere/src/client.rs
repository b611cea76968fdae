//! The client's front: connect, who the server is, keep-alive, logout. Operations are in the files of their subjects.

use std::sync::Arc;

use secrecy::SecretString;

use crate::config::Config;
use crate::content::About;
use crate::error::Error;
use crate::login::LoginRefused;
use crate::moref::MoRef;
use crate::session::Session;
use crate::soap::Request;

/// A connection to one vCenter. Cheap to clone; all clones share one session.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) session: Arc<Session>,
}

impl Client {
    /// Negotiates the API version and logs in.
    ///
    /// # Errors
    /// `Unreachable`, `Tls`, `Unauthorized`, `Unsupported` (server older than 6.5, or a URL that is not https), `Protocol`.
    pub async fn connect(config: Config) -> Result<Client, Error> {
        Ok(Client { session: Arc::new(Session::open(config).await?) })
    }

    /// The server, as it told at connect.
    pub fn about(&self) -> &About {
        &self.session.about
    }

    /// Keeps the session from ending by idleness (vCenter's default is 30 min), and renews it when it has ended.
    ///
    /// Asks for the current time (vSphere API, ServiceInstance.CurrentTime), which needs no privilege of its own. A cloned
    /// session is asked for something that only a live one answers: its end is to be seen.
    pub async fn keep_alive(&self) -> Result<(), Error> {
        self.session.sweep().await;
        if self.session.is_cloned() {
            return self.properties(&self.root_folder(), &["name"]).await.map(drop);
        }
        let request = Request::read("CurrentTime", &MoRef::new("ServiceInstance", "ServiceInstance"), |_| {});
        self.session.call(&request, self.session.timeout).await.map(drop)
    }

    /// Key of the session in use (vSphere API, UserSession.key); changes with every login.
    ///
    /// A later process names the session by it to [`Client::fence`] it. It opens nothing by itself.
    pub fn session_key(&self) -> Option<String> {
        self.session.key()
    }

    /// DER of the server's certificate, as the trust of the configuration believed it for the last answer.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.session.http.certificate()
    }

    /// A password that vCenter takes now, for a program that logs in by itself: proven by a login of its own, so that a
    /// rotated one is not tried there again and again. The session in use is not touched.
    ///
    /// # Errors
    /// `Unauthorized`; one that was refused is not tried again until it changed or a pause is over.
    pub async fn proven_password(&self) -> Result<SecretString, Error> {
        self.session.proven_password().await
    }

    /// Whether the login is refused now; changes with every refusal and when a login has passed again.
    pub fn login_refused(&self) -> tokio::sync::watch::Receiver<Option<LoginRefused>> {
        self.session.login_refused()
    }

    /// Ends the session on the server. A later call logs in again.
    pub async fn logout(&self) -> Result<(), Error> {
        self.session.log_out().await
    }
}
