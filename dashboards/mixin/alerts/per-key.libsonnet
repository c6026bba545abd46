// Optional alerts: one for each key.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local last(metric) =
    'last_over_time(%s[%s])' % [metric + util.selector([config.exporterSelector]), config.gapTolerance],
  local idle = 'key:mongodbatlas_ai_model_api_key_idle_seconds:min_not_exempt',
  local used = 'key:mongodbatlas_ai_model_api_key_used:max_enabled',
  local on = 'on (org_id, project_id, api_key_id)',

  local key(name, rule) = util.alert(config, name, rule {
    expr: util.join(
      rule.expr, 'org_id, project_id, api_key_id', 'name, project_name, owner', 'key:mongodbatlas_ai_model_api_key_info:last'
    ),
    labels: util.keyLabels,
    page: '/?org={{ $labels.org_id | urlquery }}&q={{ $labels.api_key_id | urlquery }}',
  }),
  local delete = '`atlas api aiModelApiKeys deleteGroupModelKey --groupId {{ $labels.project_id }} --apiKeyId {{ $labels.api_key_id }}`',

  perKeyAlerts:: {
    groups: [
      {
        name: 'atlas-ai-keys-per-key',
        rules:
          key('AtlasAiKeyStale', {
            expr: |||
              floor((
                %s >= %d
                and %s
                %s == 1
              ) / 86400)
            ||| % [idle, util.seconds(config.staleThreshold), on, used],
            summary: 'AI model API key ' + util.keyName + ' unused for ' + util.count('day'),
            description: |||
              The %s was last used %s ago. An unused key grants access to anyone who finds it. Ask the owner, and delete the key if it is not needed:
              %s
            ||| % [util.key, util.count('day'), delete],
          }) +
          key('AtlasAiKeyNeverUsed', {
            expr: |||
              floor((
                %s >= %d
                and %s
                %s == 0
              ) / 86400)
            ||| % [idle, util.seconds(config.neverUsedThreshold), on, used],
            summary: 'AI model API key ' + util.keyName + ' created ' + util.count('day') + ' ago and never used',
            description: |||
              The %s was created %s ago and has never been used. Ask the owner, and delete the key if it is not needed: %s
            ||| % [util.key, util.count('day'), delete],
          }) +
          key('AtlasAiKeyRevived', {
            expr: |||
              floor((
                max_over_time(%(idle)s[%(window)s]) >= %(stale)d
                unless %(on)s
                %(idle)s >= %(stale)d
                and %(on)s
                %(idle)s
              ) / 86400)
            ||| % { idle: idle, on: on, window: config.perKey.revivedWindow, stale: util.seconds(config.staleThreshold) },
            summary: 'AI model API key ' + util.keyName + ' in use again after ' + util.count('day'),
            description: |||
              The %s was used within the %s, after %s without use. Ask the owner whether the use is expected. If not, disable the key in
              Atlas and treat it as leaked.
            ||| % [util.key, util.last(config.perKey.revivedWindow), util.count('day')],
          }) +
          key('AtlasAiKeyCreated', {
            expr: |||
              floor((
                time() - max by (org_id, project_id, api_key_id) (%s) < %d
                and %s
                %s
              ) / 3600)
            ||| % [
              last('mongodbatlas_ai_model_api_key_created_timestamp_seconds'),
              util.seconds(config.perKey.createdWindow),
              on,
              idle,
            ],
            summary: 'AI model API key ' + util.keyName + ' created',
            description: |||
              The %s was created less than %s ago. Check that the creation was requested. To see the creator, add `created_by` to
              `--metrics.key-labels`.
            ||| % [util.key, util.words(config.perKey.createdWindow)],
          }),
      },
      {
        local quiet = config.perKey.quiet,
        name: 'atlas-ai-keys-per-key-quiet',
        // Each evaluation reads the history of every key, so that the interval is longer than the default.
        interval: quiet.interval,
        rules:
          key('AtlasAiKeyWentQuiet', {
            local period = util.seconds(quiet.period),
            expr: |||
              floor((
                %(idle)s >= %(period)d
                and %(on)s
                max_over_time(%(idle)s[%(history)s:%(step)s] offset %(periodText)s) < %(period)d
                and %(on)s
                %(idle)s offset %(known)ds
              ) / 3600)
            ||| % {
              idle: idle,
              on: on,
              period: period,
              periodText: quiet.period,
              history: quiet.history,
              step: quiet.step,
              known: util.seconds(quiet.history) + period,
            },
            summary: 'AI model API key ' + util.keyName + ' unused for ' + util.count('hour') + ' after regular use',
            description: |||
              The %s was in regular use for %s (without a pause of %s) and has been unused for %s. The service that uses the key may be down, or
              may use another key now.
            ||| % [util.key, util.words(quiet.history), util.words(quiet.period), util.count('hour')],
          }),
      },
    ],
  },

  prometheusAlerts+:: {
    groups+: if $._config.perKeyAlerts then $.perKeyAlerts.groups else [],
  },
}
