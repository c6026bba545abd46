// Alerts about keys: one for each project and class. Each key is in one class: exempt (no alert), disabled, never used or used.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local series(metric, matchers=[]) = metric + util.selector([config.exporterSelector] + matchers),
  local ofProject = ['org_id=%[1]q', 'project_id=%[2]q'],

  // The five longest-idle keys of a class, in whole days.
  local longestIdle(class, threshold) = util.list(
    'sort_desc(floor(topk(5, min by (api_key_id) (%s) >= %d %s unless on (api_key_id) %s) / 86400)' % [
      series('mongodbatlas_ai_model_api_key_idle_seconds', ofProject),
      util.seconds(threshold),
      class,
      series('mongodbatlas_ai_model_api_key_exempt_until_timestamp_seconds', ofProject),
    ] +
    ' * on (api_key_id) group_left (name) topk by (api_key_id) (1, %s))' %
    series('mongodbatlas_ai_model_api_key_info', ofProject),
    ['org_id', 'project_id'],
    ' Longest idle: ',
    '{{ or $item.Labels.name $item.Labels.api_key_id }} (id {{ $item.Labels.api_key_id }}, {{ $item.Value }} days)'
  ),
  local disabled = series('mongodbatlas_ai_model_api_key_info', ofProject + ['status=~"%s"' % util.disabledStatuses]),
  local used(value) =
    'and on (api_key_id) max by (api_key_id) (%s) == %d unless on (api_key_id) %s' %
    [series('mongodbatlas_ai_model_api_key_used', ofProject), value, disabled],

  local class(name, metric, threshold, rule) = util.alert(config, name, rule {
    expr: util.withProject('project_threshold:%s:max{threshold="%s"} > 0' % [metric, util.threshold(threshold)]),
    labels: util.projectLabels { threshold: '' },
    page: '/?org={{ $labels.org_id | urlquery }}&q={{ $labels.project_id | urlquery }}',
  }),
  local changes(change, window) =
    'max by (org_id, change) (increase(%s[%s]))' %
    [series('mongodbatlas_ai_model_api_key_changes_total', [change]), window],
  local orgPage = '/?org={{ $labels.org_id | urlquery }}',

  prometheusAlerts+:: {
    groups+: [{
      name: 'atlas-ai-keys-keys',
      rules:
        class('AtlasAiKeysStale', 'mongodbatlas_ai_model_api_keys_idle', config.staleThreshold, {
          local age = util.words(config.staleThreshold),
          summary: util.count('AI model API key') + ' of project ' + util.projectName + ' unused for more than ' + age,
          description: |||
            %s: %s, enabled and used at least once, unused for more than %s.%s An unused key grants access to anyone who finds it.
            List the keys with `atlas-ai-keys-exporter keys --project {{ $labels.project_id }} --status ACTIVE --idle %s` (more flags: see the runbook), ask the
            owner, and delete the keys that are not needed.
          ||| % [
            util.capital(util.project),
            util.count('AI model API key'),
            age,
            longestIdle(used(1), config.staleThreshold),
            config.staleThreshold,
          ],
        }) +
        class('AtlasAiKeysNeverUsed', 'mongodbatlas_ai_model_api_keys_never_used', config.neverUsedThreshold, {
          local age = util.words(config.neverUsedThreshold),
          summary: util.count('AI model API key') + ' of project ' + util.projectName + ' created more than ' + age + ' ago and never used',
          description: |||
            %s: %s, enabled, created more than %s ago and never used.%s List the keys with
            `atlas-ai-keys-exporter keys --project {{ $labels.project_id }} --status ACTIVE --never-used --idle %s` (more flags: see the runbook), ask
            the owner, and delete the keys that are not needed.
          ||| % [
            util.capital(util.project),
            util.count('AI model API key'),
            age,
            longestIdle(used(0), config.neverUsedThreshold),
            config.neverUsedThreshold,
          ],
        }) +
        class('AtlasAiKeysDisabledNotDeleted', 'mongodbatlas_ai_model_api_keys_disabled', config.disabledThreshold, {
          local age = util.words(config.disabledThreshold),
          summary: util.count('disabled AI model API key') + ' of project ' + util.projectName + ' not deleted',
          description: |||
            %s: %s, unused for more than %s, not deleted.%s A disabled key can be enabled again. List the keys with
            `atlas-ai-keys-exporter keys --project {{ $labels.project_id }} --status INACTIVE --status DISABLED --status REVOKED --status SUSPENDED --status EXPIRED --idle %s`
            (more flags: see the runbook), and delete the keys that are not needed.
          ||| % [
            util.capital(util.project),
            util.count('disabled AI model API key'),
            age,
            longestIdle('and on (api_key_id) ' + disabled, config.disabledThreshold),
            config.disabledThreshold,
          ],
        }) +
        util.alert(config, 'AtlasAiKeysRevived', {
          expr: util.withOrg('round(max by (org_id) (%s)) > 0' % changes('change="revived"', config.revivedWindow)),
          labels: util.orgLabels,
          page: orgPage,
          summary: util.count('long-unused AI model API key') + ' of organization ' + util.orgName + ' in use again',
          description: |||
            %s: %s used again within the %s, after being unused for longer than the largest idle threshold.%s Ask the owner whether the use is
            expected. If not, disable the key and treat it as leaked. The audit log names each key: search the exporter's log for
            `change=revived`.
          ||| % [
            util.capital(util.org),
            util.count('AI model API key'),
            util.last(config.revivedWindow),
            // Reads the series from before the event: with --metrics.per-key=idle, the series of a revived key disappear.
            util.list(
              'topk(5, max by (project_id, api_key_id) (%s offset %s) >= %d unless on (api_key_id) %s >= %d)' % [
                series('mongodbatlas_ai_model_api_key_idle_seconds', ['org_id=%[1]q']),
                config.revivedWindow,
                util.seconds(config.staleThreshold),
                series('mongodbatlas_ai_model_api_key_idle_seconds', ['org_id=%[1]q']),
                util.seconds(config.staleThreshold),
              ],
              ['org_id'],
              ' Candidates (revived or deleted): ',
              '{{ $item.Labels.api_key_id }} in project {{ $item.Labels.project_id }}'
            ),
          ],
        }) +
        util.alert(config, 'AtlasAiKeysTooMany', {
          expr: util.withOrg('org:mongodbatlas_ai_model_api_keys:sum > %d' % config.tooManyKeys),
          labels: util.orgLabels,
          page: orgPage,
          summary: 'Organization ' + util.orgName + ' has {{ $value }} AI model API keys',
          description: |||
            %s has {{ $value }} AI model API keys, more than the limit of %d set in the rules. Check for software that creates keys and does not
            delete them: list the newest keys with `atlas-ai-keys-exporter keys --sort created`.
          ||| % [util.capital(util.org), config.tooManyKeys],
        }) +
        util.alert(config, 'AtlasAiKeysChurn', {
          expr: util.withOrg('round(sum by (org_id) (%s)) > %d' % [changes('change=~"created|deleted"', config.churnWindow), config.churnKeys]),
          labels: util.orgLabels,
          page: orgPage,
          summary: '{{ $value }} AI model API keys of organization ' + util.orgName + ' created or deleted within the ' + util.last(config.churnWindow),
          description: |||
            %s: {{ $value }} AI model API keys created or deleted within the %s, more than the limit of %d set in the rules. Check for a runaway job or
            unauthorized access: search the exporter's log for `change=created` and `change=deleted`.
          ||| % [util.capital(util.org), util.last(config.churnWindow), config.churnKeys],
        }),
    }],
  },
}
