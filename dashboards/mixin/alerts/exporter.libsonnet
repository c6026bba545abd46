// Alerts about the exporter itself.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local series(metric, matchers=[]) = metric + util.selector([config.exporterSelector] + matchers),
  local last(metric, matchers=[]) = 'last_over_time(%s[%s])' % [series(metric, matchers), config.gapTolerance],
  local target = 'exporter {{ $labels.instance }} (job {{ $labels.job }})',
  local credential = 'credential {{ $labels.credential }} (job {{ $labels.job }})',

  // Thresholds that the rules need, and the exporters that have roll-ups but lack one of these thresholds. The target of a
  // single organization, ADDRESS/ORG, counts as its exporter.
  local thresholds = std.set(std.map(util.threshold, [config.staleThreshold, config.neverUsedThreshold, config.disabledThreshold])),
  local rollUps(matchers) = 'label_replace(%s, "instance", "$1", "instance", "([^/]+)/.+")' %
                            series('mongodbatlas_ai_model_api_keys_idle', matchers),
  local withoutThresholds = |||
    group by (job, instance) (%s)
    unless on (job, instance)
    (count by (job, instance) (count by (job, instance, threshold) (%s)) == %d)
  ||| % [rollUps([]), rollUps(['threshold=~"%s"' % std.join('|', thresholds)]), std.length(thresholds)],

  local secret(severity) = util.alert(config, 'AtlasClientSecretExpiring', {
    local days = 'floor((credential:atlas_ai_keys_exporter_client_secret_expiry_timestamp_seconds:in_use - time()) / 86400)',
    local limits = config.clientSecretDays,
    expr: '%s < %d%s\n' % [days, limits[severity], if severity == 'critical' then '' else ' >= %d' % limits.critical],
    summary: 'Client secret of credential {{ $labels.credential }} {{ if lt $value 0.0 }}has expired{{ else }}expires in ' +
             util.count('day') + '{{ end }}',
    description: |||
      The Atlas client secret of %s {{ if lt $value 0.0 }}has expired{{ else }}expires in %s{{ end }}. After the expiry, Atlas denies access to every
      organization of the credential. Create a second client secret for the service account in Atlas, and write it to the file
      that the exporter reads. `atlas-ai-keys-exporter check` confirms the new secret.
    ||| % [credential, util.count('day')],
  }, severity),

  prometheusAlerts+:: {
    groups+: [{
      name: 'atlas-ai-keys-exporter',
      rules:
        util.alert(config, 'AtlasAiKeysExporterDown', {
          expr: |||
            avg_over_time(%(up)s[%(window)s]) < %(ratio)s
            and on (job, instance)
            min_over_time(%(up)s[%(recovery)s]) == 0
            and on (job, instance)
            job_instance:atlas_ai_keys_exporter_up:known
          ||| % {
            up: series('up', ['instance!~"%s"' % config.organizationInstances]),
            window: config.downWindow,
            ratio: config.downRatio,
            recovery: config.downRecovery,
          },
          summary: util.capital(target) + ' is down{{ if gt $value 0.0 }} or restarts repeatedly{{ end }}',
          description: |||
            Prometheus cannot scrape the %s: {{ $value | humanizePercentage }} of the scrapes within the %s succeeded. No other
            alert fires about the keys of this exporter. Check the exporter's log: `journalctl -u atlas-ai-keys-exporter` or `kubectl logs`.
          ||| % [target, util.last(config.downWindow)],
        }) +
        // The value is 0 if no exporter is left, else the number of missing exporters of the job. A replaced pod changes no number.
        util.alert(config, 'AtlasAiKeysExporterAbsent', {
          local known = 'job_instance:atlas_ai_keys_exporter_up:known' + util.selector([config.exporterSelector]),
          expr: |||
            absent(%(known)s) * 0
            or
            (
              max_over_time(job:atlas_ai_keys_exporter_up:count_lasting[%(state)s])
              - on (job)
              (
                job:atlas_ai_keys_exporter_up:count
                or on (job)
                max_over_time(job:atlas_ai_keys_exporter_up:count_lasting[%(state)s]) * 0
              )
              > 0
              and on ()
              %(known)s
            )
          ||| % { known: known, state: config.stateTolerance },
          summary: '{{ if eq $value 0.0 }}Prometheus has no atlas-ai-keys-exporter among its targets{{ else }}' +
                   util.count('exporter') + ' of job {{ $labels.job }} missing from the targets of Prometheus{{ end }}',
          description: |||
            {{ if eq $value 0.0 }}No alert about AI model API keys can fire. The exporter's target has disappeared from service discovery, or was
            never scraped successfully.{{ else }}Job {{ $labels.job }} has lost %(number)s from the targets of Prometheus within the %(last)s:
            no alert fires about keys that no other exporter watches. The alert resolves %(state)s after the target disappeared, even if
            the target is still missing.{{ end }} Check the page /targets of Prometheus.
          ||| % { number: util.count('atlas-ai-keys-exporter'), last: util.last(config.stateTolerance), state: util.words(config.stateTolerance) },
        }) +
        util.alert(config, 'AtlasAiKeysConfigBad', {
          expr: |||
            min by (job, instance) (%s) == 0
            or on (job, instance)
            (
              %s
            )
          ||| % [
            last('atlas_ai_keys_exporter_config_last_reload_successful'),
            util.indent(withoutThresholds),
          ],
          summary: util.capital(target) + ' {{ if eq $value 0.0 }}has an invalid configuration{{ else }}lacks an idle threshold that the rules need{{ end }}',
          description: |||
            {{ if eq $value 0.0 }}The %(target)s could not load the changed configuration. The previous configuration stays active, and the
            next start will fail. List the errors with `atlas-ai-keys-exporter check --offline`.{{ else }}The rules need the
            thresholds %(thresholds)s, and --metrics.idle-thresholds of the %(target)s lacks at least one of them: alerts about
            unused keys cannot fire. Add the missing thresholds, or render the rules with other thresholds.{{ end }}
          ||| % { target: target, thresholds: std.join(' and ', thresholds) },
        }) +
        util.alert(config, 'AtlasAiKeysStorageFailing', {
          expr: 'max by (job, instance) (%s) == 1\n' % last('atlas_ai_keys_exporter_storage_last_write_failed'),
          summary: util.capital(target) + ' cannot write to its state directory',
          description: |||
            The last write of the %s to its state directory (--storage.path) failed. Metrics are correct until the next restart,
            and then empty until the first poll. Check free space, file system and permissions of the directory.
          ||| % target,
        }) +
        util.alert(config, 'AtlasAiKeysDropped', {
          expr: util.withOrg('max by (org_id) (%s) > 0' % last('atlas_ai_keys_exporter_keys_dropped')),
          labels: util.orgLabels,
          summary: util.count('AI model API key') + ' of organization ' + util.orgName + ' without per-key series',
          description: |||
            %s: %s without per-key series. Either there are more keys than --metrics.max-keys, or Atlas returned a missing id or an
            invalid timestamp, which the exporter's log names. Roll-ups and alerts per project count these keys; dashboards and per-key alerts do not show them.
          ||| % [util.capital(util.org), util.count('AI model API key')],
        }) +
        util.alert(config, 'AtlasTokenTrouble', {
          expr: |||
            credential:atlas_ai_keys_exporter_token_requests:failing == 1
            unless on (job, instance, credential)
            max by (job, instance, credential) (%s) > time() + %d
          ||| % [last('atlas_ai_keys_exporter_token_expiry_timestamp_seconds'), util.seconds(config.tokenLifetime)],
          summary: 'Credential {{ $labels.credential }} has no access token',
          description: |||
            Requests of the %s for an access token of credential {{ $labels.credential }} fail, and no valid token remains: polls of every
            organization of the credential fail. The client secret has expired or been replaced, the service account has too many
            tokens, or the token endpoint is unavailable. Find the cause with `atlas-ai-keys-exporter check`.
          ||| % target,
        }) +
        secret('critical') +
        secret('warning') +
        util.alert(config, 'AtlasExemptionUnmatched', {
          expr: 'max by (job, instance) (%s) > 0\n' % last('atlas_ai_keys_exporter_exemptions_unmatched'),
          summary: util.count('exemption') + ' of ' + target + ' without a matching key',
          description: |||
            The configuration file of the %s has %s without a matching key: the key was deleted or renamed, or the exemption contains a typo and
            the intended key is reported as unused. List the unmatched exemptions with `atlas-ai-keys-exporter check`.
          ||| % [target, util.count('exemption')],
        }),
    }],
  },
}
