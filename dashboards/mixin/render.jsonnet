// Renders the rule files of dashboards/rules:
//   jsonnet -S -m dashboards/rules [--tla-code 'config={tooManyKeys: 200}'] dashboards/mixin/render.jsonnet
function(config={})
  local mixin = (import 'configured.libsonnet')(config);
  local meta = {
    metadata: { name: mixin._config.manifestName, labels: mixin._config.manifestLabels },
  };
  local yaml = import 'yaml.libsonnet';
  local source = '# Made from dashboards/mixin by `make rules`: change the parameters there (config.libsonnet), not this file.\n';
  // Evaluated once.
  local groups(alerts, rules) = std.parseJson(std.toString({ groups: rules.groups + alerts.groups }));
  local default = groups(mixin.prometheusAlerts, mixin.prometheusRules);
  local optional = groups(mixin.perKeyAlerts, mixin.perKeyRules);
  {
    'atlas-ai-keys.yml': source + |||
      # Recording and alerting rules for atlas-ai-keys-exporter: one alert a project and cause.
    ||| + yaml.manifest(default, '') + '\n',

    'atlas-ai-keys-per-key.yml': source + |||
      # Optional rules for small fleets and security teams: one alert a key. Load them together with atlas-ai-keys.yml,
      # which records the owners of projects. They need --metrics.per-key=all and `status` in --metrics.key-labels, both
      # the default: without the status, disabled keys are in the alerts too.
    ||| + yaml.manifest(optional, '') + '\n',

    'prometheus-rule.yml': source + |||
      # atlas-ai-keys.yml for the Prometheus operator. A Prometheus object loads the PrometheusRule objects that its
      # `ruleSelector` selects. That of kube-prometheus-stack selects by the name of the Helm release, unless the chart's value
      # prometheus.prometheusSpec.ruleSelectorNilUsesHelmValues is false: add the label `release: NAME` below, for example
      # with kubectl label --local -f prometheus-rule.yml release=kube-prometheus-stack -o yaml | kubectl apply -f -
    ||| + yaml.manifest(meta { apiVersion: 'monitoring.coreos.com/v1', kind: 'PrometheusRule', spec: default }, '') + '\n',

    'configmap.yml': source + |||
      # atlas-ai-keys.yml for a Prometheus in Kubernetes without the operator. Mount the ConfigMap into the Prometheus pod (value
      # server.extraConfigmapMounts of the chart prometheus-community/prometheus), and name the file under `rule_files`.
    ||| + yaml.manifest(meta { apiVersion: 'v1', kind: 'ConfigMap' }, '') + '\ndata:\n  atlas-ai-keys.yml: |\n    ' + yaml.manifest(default, '    ') + '\n',
  }
