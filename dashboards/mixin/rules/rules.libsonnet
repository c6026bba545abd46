// Recording rules. If several exporters watch one organization, the maximum counts, so that nothing is counted twice. A series
// that is missing for less than gapTolerance, for example after a failed scrape, counts as unchanged.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local series(metric, matchers=[]) = metric + util.selector([config.exporterSelector] + matchers),
  local last(metric, matchers=[]) = 'last_over_time(%s[%s])' % [series(metric, matchers), config.gapTolerance],

  // Descriptive labels of the most recently scraped series. Ids without such a series have no names: `known` has all ids.
  local info(level, metric, ids, names, known) = [
    {
      record: '%s:%s:timestamp' % [level, metric],
      expr: 'max by (%s) (timestamp(%s))\n' % [std.join(', ', ids + names), series(metric)],
    },
    {
      record: '%s:%s:last' % [level, metric],
      expr: |||
        group by (%s) (
          topk by (%s) (1, last_over_time(%s:%s:timestamp[%s]))
        )
        or on (%s)
        group by (%s) (%s)
      ||| % [std.join(', ', ids + names), std.join(', ', ids), level, metric, config.infoTolerance, std.join(', ', ids), std.join(', ', ids), known],
    },
  ],

  // Number of a project's keys for each threshold.
  local rollUp(metric) = {
    record: 'project_threshold:%s:max' % metric,
    expr: 'max by (org_id, project_id, threshold) (%s)\n' % last(metric),
  },

  prometheusRules+:: {
    groups+: [{
      name: 'atlas-ai-keys.rules',
      rules:
        [rollUp('mongodbatlas_ai_model_api_keys_' + class) for class in ['idle', 'never_used', 'disabled']] +
        info(
          'project',
          'mongodbatlas_project_info',
          ['org_id', 'project_id'],
          ['project_name', 'owner'],
          'project_threshold:mongodbatlas_ai_model_api_keys_idle:max'
        ) +
        [
          {
            record: 'org:mongodbatlas_ai_model_api_keys:sum',
            expr: |||
              sum by (org_id) (
                max by (org_id, project_id, status) (%s)
              )
            ||| % last('mongodbatlas_ai_model_api_keys', ['status!~"(?i)deleted"']),
          },
          {
            record: 'org:atlas_ai_keys_exporter_org_up:max',
            expr: 'max by (org_id) (%s)\n' % last('atlas_ai_keys_exporter_org_up'),
          },
        ] +
        info('org', 'mongodbatlas_organization_info', ['org_id'], ['org_name'], 'org:atlas_ai_keys_exporter_org_up:max') +
        [
          // Time at which the first poll of an organization was expected, until a poll succeeds.
          {
            record: 'org:atlas_ai_keys_exporter_org_up:waiting_since',
            expr: |||
              (
                last_over_time(org:atlas_ai_keys_exporter_org_up:waiting_since[%s])
                or on (org_id)
                (org:atlas_ai_keys_exporter_org_up:max * 0 + time())
              )
              and on (org_id) org:atlas_ai_keys_exporter_org_up:max
              unless on (org_id) %s
            ||| % [config.gapTolerance, last('atlas_ai_keys_exporter_org_last_success_timestamp_seconds')],
          },
          {
            record: 'org:atlas_ai_keys_exporter_org_data_age_seconds:min',
            expr: |||
              time() - (
                max by (org_id) (%s)
                or on (org_id)
                org:atlas_ai_keys_exporter_org_up:waiting_since
              )
            ||| % last('atlas_ai_keys_exporter_org_last_success_timestamp_seconds'),
          },
          // Targets that are exporters. An exporter that is down stays in the list until its target disappears.
          {
            record: 'job_instance:atlas_ai_keys_exporter_up:known',
            expr: |||
              group by (job, instance) (
                %s
                or on (job, instance)
                (
                  last_over_time(job_instance:atlas_ai_keys_exporter_up:known[%s])
                  and on (job, instance)
                  %s == 0
                )
              )
            ||| % [
              series('atlas_ai_keys_exporter_build_info'),
              config.stateTolerance,
              series('up', ['instance!~"%s"' % config.organizationInstances]),
            ],
          },
          // Number of exporters of a job, and the minimum within absentAfter: an additional pod during a rolling update does not count.
          {
            record: 'job:atlas_ai_keys_exporter_up:count',
            expr: 'count by (job) (job_instance:atlas_ai_keys_exporter_up:known%s)\n' %
                  util.selector(['instance!~"%s"' % config.organizationInstances]),
          },
          {
            record: 'job:atlas_ai_keys_exporter_up:count_lasting',
            expr: 'min_over_time(job:atlas_ai_keys_exporter_up:count[%s])\n' % config.absentAfter,
          },
          // 1 from a failed token request of the credential until a request succeeds, else 0.
          {
            record: 'credential:atlas_ai_keys_exporter_token_requests:failing',
            expr: |||
              (
                (sum by (job, instance, credential) (increase(%(issued)s[%(window)s])) > 0) * 0
                or
                (sum by (job, instance, credential) (increase(%(failed)s[%(window)s])) > 0) * 0 + 1
                or
                last_over_time(credential:atlas_ai_keys_exporter_token_requests:failing[%(state)s])
              )
              and on (job, instance, credential)
              %(present)s
            ||| % {
              failed: series('atlas_ai_keys_exporter_token_requests_total', ['outcome!="issued"']),
              issued: series('atlas_ai_keys_exporter_token_requests_total', ['outcome="issued"']),
              present: last('atlas_ai_keys_exporter_token_requests_total'),
              state: config.stateTolerance,
              window: config.tokenWindow,
            },
          },
          // Expiry of the client secret in use, or of the secret that expires last if none is known to be in use. Each exporter of a
          // job may have another service account, so that the secret is chosen for each exporter.
          {
            record: 'credential:atlas_ai_keys_exporter_client_secret_expiry_timestamp_seconds:in_use',
            expr: |||
              min by (job, credential) (
                min by (job, instance, credential) (
                  %(expiry)s
                  and on (job, instance, credential, secret_id)
                  %(used)s > time() - %(within)d
                )
                or on (job, instance, credential)
                max by (job, instance, credential) (%(expiry)s)
              )
            ||| % {
              expiry: last('atlas_ai_keys_exporter_client_secret_expiry_timestamp_seconds'),
              used: last('atlas_ai_keys_exporter_client_secret_last_used_timestamp_seconds'),
              within: util.seconds(config.clientSecretUsedWithin),
            },
          },
        ],
    }],
  },
}
