// Recording rules of the optional alerts: one series for each key.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local last(metric, matchers=[]) =
    'last_over_time(%s[%s])' % [metric + util.selector([config.exporterSelector] + matchers), config.gapTolerance],
  local key = 'org_id, project_id, api_key_id',

  perKeyRules:: {
    groups: [{
      name: 'atlas-ai-keys-per-key.rules',
      rules: [
        // Idle time of the keys without an exemption. Exempt keys raise no alert.
        {
          record: 'key:mongodbatlas_ai_model_api_key_idle_seconds:min_not_exempt',
          expr: |||
            min by (%s) (%s)
            unless on (%s)
            %s
          ||| % [
            key,
            last('mongodbatlas_ai_model_api_key_idle_seconds'),
            key,
            last('mongodbatlas_ai_model_api_key_exempt_until_timestamp_seconds'),
          ],
        },
        // Enabled keys: 1 if the key was ever used, else 0.
        {
          record: 'key:mongodbatlas_ai_model_api_key_used:max_enabled',
          expr: |||
            max by (%s) (%s)
            unless on (%s)
            %s
          ||| % [
            key,
            last('mongodbatlas_ai_model_api_key_used'),
            key,
            last('mongodbatlas_ai_model_api_key_info', ['status=~"%s"' % util.disabledStatuses]),
          ],
        },
        {
          record: 'key:mongodbatlas_ai_model_api_key_info:last',
          expr: util.withProject(|||
            group by (%s, name) (
              topk by (%s) (1, %s)
            )
          ||| % [key, key, last('mongodbatlas_ai_model_api_key_info')]),
        },
      ],
    }],
  },

  prometheusRules+:: {
    groups+: if $._config.perKeyAlerts then $.perKeyRules.groups else [],
  },
}
