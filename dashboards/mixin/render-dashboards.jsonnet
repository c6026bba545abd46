// Renders the dashboards: jsonnet -m dashboards [--tla-code 'config={exporterUrl: "https://keys.example"}'] FILE
function(config={})
  (import 'configured.libsonnet')(config).grafanaDashboards
