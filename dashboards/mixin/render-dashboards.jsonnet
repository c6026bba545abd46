// Renders the dashboards: jsonnet -m dashboards [--tla-code 'config={exporterUrl: "https://keys.example"}'] FILE
function(config={})
  ((import 'mixin.libsonnet') { _config:: std.mergePatch(super._config, config) }).grafanaDashboards
