//! Creates clients and polling plans from a configuration.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use exporter_toolkit::bounded_file::run_blocking;
use mongodb_atlas_client::{
    Client, ClientConfig, ClientDeps, ClientObserver, OptionalFields, RateLimiter,
};

use super::active_config::{ActiveConfig, ClientsByName};
use super::{Dependencies, StartError, Telemetry};
use crate::config::Config;
use crate::credentials::CredentialKind;
use crate::inventory::InventoryStore;
use crate::metrics::{Compressor, KeyLabel};
use crate::poll::{CredentialTarget, PollOptions, PollPlan, PrepareInventory, walk_timeout};
use crate::storage::Storage;
use crate::web::SharedHandlerOptions;

/// Creates clients and polling plans from a configuration.
pub(super) struct ClientFactory {
    pub(super) dependencies: Dependencies,
    pub(super) rate_limiter: Arc<RateLimiter>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) handler_options: Arc<SharedHandlerOptions>,
    pub(super) store: Arc<InventoryStore>,
}

impl ClientFactory {
    /// Creates the clients and the plan of `config`. A client with an unchanged configuration is reused, with its token,
    /// nonce and connections.
    pub(super) fn build_plan(
        &self,
        config: &Config,
        storage: Option<Storage>,
        previous: Option<&ActiveConfig>,
    ) -> Result<(ClientsByName, PollPlan), StartError> {
        let mut clients = ClientsByName::new();
        let mut targets = Vec::new();
        for credential in &config.credentials {
            let client_config = config.client_config(credential);
            let reusable = previous
                .filter(|previous| previous.config.storage_path == config.storage_path)
                .and_then(|previous| previous.clients.get(&credential.name))
                .filter(|client| *client.config() == client_config);
            let client = match reusable {
                Some(client) => Arc::clone(client),
                None => self.create_client(client_config, storage.as_ref())?,
            };
            if credential.credential.kind() == CredentialKind::ServiceAccount {
                self.telemetry.metrics.init_credential(&credential.name);
            }
            clients.insert(Arc::clone(&credential.name), Arc::clone(&client));
            targets.push(CredentialTarget {
                client,
                orgs: credential.org_ids.clone(),
                discover: credential.discover_orgs,
            });
        }
        let known = previous.into_iter().flat_map(|it| it.clients.keys());
        for removed in known.filter(|name| !clients.contains_key(*name)) {
            self.telemetry.statuses.remove_credential(removed);
            self.telemetry.metrics.remove_credential(removed);
        }
        let plan = PollPlan {
            credentials: targets,
            shard: config.shard,
            max_orgs: config.max_orgs,
            interval: config.poll_interval,
            owner_tag: config.owner_tag.clone(),
            options: self.poll_options(config),
            storage,
        };
        Ok((clients, plan))
    }

    fn poll_options(&self, config: &Config) -> PollOptions {
        let series = &config.key_series;
        let longest_threshold = series.thresholds.last();
        PollOptions {
            page_size: config.page_size,
            revived_after: longest_threshold
                .map(|threshold| threshold.duration)
                .unwrap_or_default(),
            optional_fields: OptionalFields {
                created_by: series.labels.contains(&KeyLabel::CreatedBy),
                masked_secret: series.labels.contains(&KeyLabel::MaskedSecret),
            },
            // Names that are not exported must not be in the log either.
            log_key_names: series.labels.contains(&KeyLabel::Name),
            clock: self.dependencies.clock.clone(),
            prepare_inventory: self.prepare_inventory(),
            walk_timeout: walk_timeout(config.poll_interval),
        }
    }

    /// Classifies the keys of an inventory and compresses it when it is built, so that the first scrape after a poll is not
    /// slower than others.
    fn prepare_inventory(&self) -> PrepareInventory {
        let (options, store) = (Arc::clone(&self.handler_options), Arc::clone(&self.store));
        Arc::new(move |inventory| {
            let (options, inventory) = (options.get(), store.classify(inventory));
            if options.gzip_requested.load(Ordering::Relaxed) {
                Compressor::precompress(&inventory, &options.config.key_series);
            }
            inventory
        })
    }

    fn create_client(
        &self,
        config: ClientConfig,
        storage: Option<&Storage>,
    ) -> Result<Arc<Client>, StartError> {
        let transport = (self.dependencies.transport_factory)(&config);
        let deps = ClientDeps {
            transport: transport.map_err(StartError::Client)?,
            rate_limiter: Arc::clone(&self.rate_limiter),
            token_store: storage.map(|storage| storage.token_store(&config.credential_name)),
            observer: Arc::clone(&self.telemetry.metrics) as Arc<dyn ClientObserver>,
            clock: self.dependencies.clock.clone(),
        };
        let client = Client::new(config, deps).map_err(StartError::Client)?;
        Ok(Arc::new(client))
    }
}

/// Opens the storage on a thread that may block: the file system may hang.
pub(super) async fn open_storage(config: &Config) -> Result<Option<Storage>, StartError> {
    let Some(path) = config.storage_path.clone() else {
        return Ok(None);
    };
    let opened = run_blocking(&path.clone(), move || Storage::open(&path)).await;
    let storage = opened.map_err(StartError::StorageUnavailable)??;
    Ok(Some(storage))
}
