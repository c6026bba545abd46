// Alerts about the polls of organizations. Lasting conditions are read from gauges: a counter does not show whether a failure
// still lasts.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local series(metric, matchers=[]) = metric + util.selector([config.exporterSelector] + matchers),
  local last(metric, matchers=[]) = 'last_over_time(%s[%s])' % [series(metric, matchers), config.gapTolerance],
  local denied = 'unauthorized|forbidden|not_found',

  // Organizations with a last poll that failed for one of the reasons, and that no other exporter polls successfully.
  local failed(reasons) = util.withOrg(|||
    max by (org_id) (%s) == 1
    and on (org_id) org:atlas_ai_keys_exporter_org_up:max == 0
  ||| % last('atlas_ai_keys_exporter_org_last_poll_failed', [reasons])),
  local reasons = util.list(
    'max by (reason) (' + series('atlas_ai_keys_exporter_org_last_poll_failed', ['org_id=%[1]q']) + ' == 1)',
    ['org_id'],
    ' (reason ',
    '{{ $item.Labels.reason }}',
    ')'
  ),
  local page = '/?org={{ $labels.org_id | urlquery }}',

  local ageLimit(severity) = 'clamp_min(%d * max by (org_id) (%s), %d)' % [
    config.dataStale[severity].intervals,
    last('atlas_ai_keys_exporter_org_poll_interval_seconds'),
    util.seconds(config.dataStale[severity].minimum),
  ],
  local dataStale(severity) = util.alert(config, 'AtlasOrgDataStale', {
    local age = 'org:atlas_ai_keys_exporter_org_data_age_seconds:min',
    expr: util.withOrg(
      |||
        floor((%s > %s) / 3600)
      ||| % [age, ageLimit(severity)] +
      if severity == 'critical' then '' else |||
        unless on (org_id)
        %s > %s
      ||| % [age, ageLimit('critical')]
    ),
    labels: util.orgLabels,
    page: page,
    summary: 'Data of organization ' + util.orgName + ' is ' + util.count('hour') + ' old',
    description: |||
      %s: no poll has succeeded for %s%s. All metrics of the organization's keys are stale: keys used, created or deleted since
      then are not detected. Test credential, access and network with `atlas-ai-keys-exporter check`.
    ||| % [util.capital(util.org), util.count('hour'), reasons],
  }, severity),

  prometheusAlerts+:: {
    groups+: [{
      name: 'atlas-ai-keys-organizations',
      rules:
        util.alert(config, 'AtlasOrgAccessDenied', {
          expr: failed('reason=~"%s"' % denied),
          labels: util.orgLabels,
          page: page,
          summary: 'Atlas denies access to the AI model API keys of organization ' + util.orgName,
          description: |||
            %s: Atlas rejects the polls%s. The credential has expired or been revoked, lacks the role Organization Read Only or lacks the
            exporter's address in its IP access list, or the organization id does not exist. Metrics show the last successful poll. Find the
            cause with `atlas-ai-keys-exporter check`.
          ||| % [util.capital(util.org), reasons],
        }) +
        util.alert(config, 'AtlasOrgPollFailing', {
          expr: failed('reason!~"%s"' % denied),
          labels: util.orgLabels,
          page: page,
          summary: 'Polls of organization ' + util.orgName + ' fail',
          description: |||
            %s: polls fail%s. Polls are retried automatically, and metrics show the last successful poll. Check Atlas' status page, then
            check DNS, proxy and firewall of the exporter with `atlas-ai-keys-exporter check`.
          ||| % [util.capital(util.org), reasons],
        }) +
        // The order matters: the warning ends in the same evaluation in which the critical alert starts.
        dataStale('critical') +
        dataStale('warning') +
        util.alert(config, 'AtlasRequestBudgetTooSmall', {
          expr: util.withOrg(|||
            max by (org_id) (
              %s
              / %s
            ) > %s
          ||| % [
            last('atlas_ai_keys_exporter_org_poll_interval_seconds'),
            last('atlas_ai_keys_exporter_org_configured_poll_interval_seconds'),
            config.requestBudgetIntervals,
          ]),
          labels: util.orgLabels,
          page: page,
          summary: "Atlas' rate limit is too small for the poll interval of organization " + util.orgName,
          description: |||
            %s: the effective poll interval is {{ $value | printf "%%.1f" }} times as long as --atlas.poll-interval, because Atlas' rate limit allows too
            few requests for the number of keys and organizations. Increase --atlas.poll-interval, use one service account for each
            organization, or find the other program that uses the same rate limit.
          ||| % util.capital(util.org),
        }),
    }],
  },
}
