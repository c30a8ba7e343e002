package policy

// Mode returns what becomes of violations in a repository of an upstream, before
// there is a decision to read it off.
func (e *Engine) Mode(upstream, repository string) Mode { return e.c.Mode }
