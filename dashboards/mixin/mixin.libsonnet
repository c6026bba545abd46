// Alerts, recording rules and dashboards of atlas-ai-keys-exporter, in the form of a Prometheus monitoring mixin.
(import 'dashboards.libsonnet') +
(import 'alerts/keys.libsonnet') +
(import 'alerts/organizations.libsonnet') +
(import 'alerts/exporter.libsonnet') +
(import 'alerts/per-key.libsonnet') +
(import 'rules/rules.libsonnet') +
(import 'rules/per-key.libsonnet') +
(import 'config.libsonnet')
