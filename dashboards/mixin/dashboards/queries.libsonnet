// Queries that several panels share. Each query first reduces a metric by max, min or topk, so that several exporters of one
// organization count once.
function(config) {
  local matchers(more) = std.join(', ', (if config.exporterSelector == '' then [] else [config.exporterSelector]) + more),
  local org = 'org_id=~"$org"',
  local project = [org, 'project_id=~"$project"'],
  local ofKey = 'org_id, project_id, api_key_id',

  // Series of a process, of an organization, of a project or key.
  process(metric, more=[]): '%s{%s}' % [metric, matchers(['job=~"$job"', 'instance=~"$instance"'] + more)],
  org(metric, more=[]): self.process(metric, [org] + more),
  project(metric, more=[]): self.process(metric, project + more),
  // Series for variables, filtered by the variables before them.
  variable(metric, more=[]): '%s{%s}' % [metric, matchers(more)],

  // Removes the projects of other owners: label_replace marks the projects of the selected owner. Projects without an owner
  // have the owner 'no owner'.
  noOwner(expr): 'label_replace(%s, "owner", "no owner", "owner", "")' % expr,
  owned(expr):
    local projects = self.org('mongodbatlas_project_info');
    '%s unless on (org_id, project_id) (label_replace(%s, "selected", "yes", "", "") unless on (org_id, project_id, selected) label_replace(%s, "selected", "yes", "owner", "$owner"))' %
    [expr, projects, self.noOwner(projects)],

  // Number of keys of each project, by status or threshold.
  keys: self.owned('max by (org_id, project_id, status) (%s)' % self.project('mongodbatlas_ai_model_api_keys')),
  class(name, threshold='threshold="$threshold"'): self.owned(
    'max by (org_id, project_id, threshold) (%s)' % self.project('mongodbatlas_ai_model_api_keys_' + name, if threshold == '' then [] else [threshold])
  ),
  exempt: self.owned('max by (org_id, project_id) (%s)' % self.project('mongodbatlas_ai_model_api_keys_exempt')),
  // Sum of idle, never-used and disabled keys.
  unused: std.join(' + ', ['sum(%s)' % self.class(name) for name in ['idle', 'never_used', 'disabled']]),

  // Info series of organizations, projects and keys, with the value 1. An unknown name is replaced by the id.
  orgInfo: '(topk by (org_id) (1, %s) or on (org_id) label_replace(group by (org_id) (%s), "org_name", "$1", "org_id", "(.*)"))' % [
    self.org('mongodbatlas_organization_info'),
    self.org('atlas_ai_keys_exporter_org_up'),
  ],
  projectInfo: '(topk by (org_id, project_id) (1, %s) or on (org_id, project_id) label_replace(group by (org_id, project_id) (%s), "project_name", "$1", "project_id", "(.*)"))' % [
    self.project('mongodbatlas_project_info'),
    self.project('mongodbatlas_ai_model_api_keys'),
  ],
  keyInfo: 'topk by (%s) (1, %s)' % [ofKey, self.project('mongodbatlas_ai_model_api_key_info')],

  // Adds names to the series of keys, projects and organizations.
  withKey(expr): '%s * on (%s) group_left (name, status) %s' % [expr, ofKey, self.keyInfo],
  withProject(expr): '%s * on (org_id, project_id) group_left (project_name, owner) %s' % [expr, self.projectInfo],
  withOrg(expr): '%s * on (org_id) group_left (org_name) %s' % [expr, self.orgInfo],

  // Sums of keys by owner, project or organization.
  byOwner(expr): self.noOwner('sum by (owner) (%s)' % self.withProject('(%s)' % expr)),
  byProject(expr): 'sum by (org_id, project_id) (%s)' % expr,
  byOrg(expr): 'sum by (org_id) (%s)' % expr,

  // One value for each key, and the keys of a table.
  key(reduce, metric): '%s by (%s) (%s)' % [reduce, ofKey, self.project('mongodbatlas_ai_model_api_key_' + metric)],
  mostIdle(number): 'topk(%d, %s)' % [number, self.owned(
    '(%s unless on (%s) %s)' % [self.key('min', 'idle_seconds'), ofKey, self.project('mongodbatlas_ai_model_api_key_exempt_until_timestamp_seconds')]
  )],
  exemptions: self.owned(self.key('max', 'exempt_until_timestamp_seconds')),
  ofKeys(expr, keys): '%s and on (%s) %s' % [expr, ofKey, keys],

  // Changes of keys up to the last full hour, summed by the hour. An increase over the whole range would count the same change
  // twice when an exporter restarts with another instance label.
  changes(change): 'sum(sum_over_time(max by (org_id) (round(increase(%s[1h])))[$__range:1h])) or vector(0)' %
                   self.org('mongodbatlas_ai_model_api_key_changes_total', ['change="%s"' % change]),

  dataAge: 'time() - max by (org_id) (%s)' % self.org('atlas_ai_keys_exporter_org_last_success_timestamp_seconds'),
}
