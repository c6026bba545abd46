// Renders the dashboards: jsonnet -m dashboards [--tla-code 'config={exporterUrl: "https://keys.example.com"}'] FILE
function(config={})
  (import 'configured.libsonnet')(config).grafanaDashboards
