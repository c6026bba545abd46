// Alerts about the exporter itself.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local series(metric, matchers=[]) = metric + util.selector([config.exporterSelector] + matchers),
  local last(metric, matchers=[]) = 'last_over_time(%s[%s])' % [series(metric, matchers), config.gapTolerance],
  local target = 'exporter {{ $labels.instance }} (job {{ $labels.job }})',
  local credential = 'credential {{ $labels.credential }} (job {{ $labels.job }})',

  // Thresholds that the rules read, and exporters with roll-ups but without one of them. The target of a single organization,
  // ADDRESS/ORG, counts as the exporter.
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
      The Atlas client secret of %s {{ if lt $value 0.0 }}has expired{{ else }}expires in %s{{ end }}. After that Atlas denies access to every
      organization of the credential. Add a second client secret to the service account in Atlas and write it where the exporter
      reads the first: the file is read again without a restart.
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
          summary: util.capital(target) + ' is down{{ if gt $value 0.0 }} or restarts again and again{{ end }}',
          description: |||
            Prometheus cannot scrape the %s: {{ $value | humanizePercentage }} of the scrapes of the last %s succeeded. Nothing is
            known of the keys that it watches, and no other alert about them fires. Look at its log
            (`journalctl -u atlas-ai-keys-exporter`, `kubectl logs`).
          ||| % [target, util.words(config.downWindow)],
        }) +
        // 0 if no exporter is left, else how many of a job vanished: numbers, so that a new name of a pod changes nothing.
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
          summary: '{{ if eq $value 0.0 }}Prometheus has no target that is an atlas-ai-keys-exporter{{ else }}' +
                   util.count('exporter') + ' of job {{ $labels.job }} vanished from the targets of Prometheus{{ end }}',
          description: |||
            {{ if eq $value 0.0 }}No atlas-ai-keys-exporter is among the targets of Prometheus, so no alert about AI model API keys can fire. The
            exporter's target has vanished from service discovery, or was never scraped successfully.{{ else }}Job {{ $labels.job }} has %(number)s fewer
            among the targets of Prometheus than it had within the last %(state)s: no alert fires about keys that no other exporter watches. The
            alert ends %(state)s after the target vanished, even if it is still missing.{{ end }} Look at the page /targets of Prometheus.
          ||| % { number: util.count('atlas-ai-keys-exporter'), state: util.words(config.stateTolerance) },
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
          summary: util.capital(target) + ' {{ if eq $value 0.0 }}has an invalid configuration{{ else }}does not export the thresholds of the rules{{ end }}',
          description: |||
            {{ if eq $value 0.0 }}The %(target)s could not load its changed configuration and uses the one before; the next start will fail.
            Find the errors with `atlas-ai-keys-exporter check --offline` and in the log.{{ else }}The rules read the
            thresholds %(thresholds)s of the roll-ups, and --metrics.idle-thresholds of the %(target)s does not have all of them: alerts
            about idle keys cannot fire. Add the thresholds, or render the rules with others.{{ end }}
          ||| % { target: target, thresholds: std.join(' and ', thresholds) },
        }) +
        util.alert(config, 'AtlasAiKeysStorageFailing', {
          expr: 'max by (job, instance) (%s) == 1\n' % last('atlas_ai_keys_exporter_storage_last_write_failed'),
          summary: util.capital(target) + ' cannot write its state',
          description: |||
            The last write of the %s to its state directory (--storage.path) failed. Metrics are not affected; after a restart they are empty
            until the first poll. Check free space, file system and permissions of the directory.
          ||| % target,
        }) +
        util.alert(config, 'AtlasAiKeysDropped', {
          expr: util.withOrg('max by (org_id) (%s) > 0' % last('atlas_ai_keys_exporter_keys_dropped')),
          labels: util.orgLabels,
          summary: util.count('AI model API key') + ' of organization ' + util.orgName + ' without per-key series',
          description: |||
            %s: %s without per-key series, because of --metrics.max-keys or because Atlas sends an invalid id or date. The roll-ups, and the
            alerts of projects, count these keys; dashboards and alerts of single keys do not.
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
            tokens, or the token endpoint is unavailable. `atlas-ai-keys-exporter check` names the cause.
          ||| % target,
        }) +
        secret('critical') +
        secret('warning') +
        util.alert(config, 'AtlasExemptionUnmatched', {
          expr: 'max by (job, instance) (%s) > 0\n' % last('atlas_ai_keys_exporter_exemptions_unmatched'),
          summary: util.count('exemption') + ' of ' + target + ' without a key',
          description: |||
            The configuration file of the %s has %s that match no key: the key was deleted or renamed, or the exemption has a typing error and
            the key that it is for is reported as unused. `atlas-ai-keys-exporter check` lists them.
          ||| % [target, util.count('exemption')],
        }),
    }],
  },
}
