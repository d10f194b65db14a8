CREATE TABLE areas (
	area TEXT NOT NULL,
	recipe TEXT NOT NULL,
	looked_utc TIMESTAMP WITH TIME ZONE NOT NULL,
	PRIMARY KEY (area)
)
CREATE TABLE landuse_ledger (
	version SERIAL NOT NULL,
	PRIMARY KEY (version)
)
CREATE TABLE leases (
	area TEXT NOT NULL,
	"window" TEXT NOT NULL,
	owner TEXT NOT NULL,
	expires_utc TIMESTAMP WITH TIME ZONE NOT NULL,
	PRIMARY KEY (area, "window")
)
CREATE TABLE maps (
	map_id TEXT NOT NULL,
	area TEXT NOT NULL,
	"window" TEXT NOT NULL,
	window_days INTEGER NOT NULL,
	number INTEGER NOT NULL,
	created_utc TIMESTAMP WITH TIME ZONE NOT NULL,
	model_sha256 TEXT NOT NULL,
	recipe TEXT NOT NULL,
	path TEXT NOT NULL,
	scene_ids JSON NOT NULL,
	valid FLOAT NOT NULL,
	superseded_by TEXT,
	change_paths JSON NOT NULL,
	PRIMARY KEY (map_id),
	FOREIGN KEY(superseded_by) REFERENCES maps (map_id)
)
CREATE INDEX maps_by_window ON maps (area, "window")
CREATE TABLE recipes (
	area TEXT NOT NULL,
	recipe TEXT NOT NULL,
	settings JSON NOT NULL,
	turn INTEGER NOT NULL,
	PRIMARY KEY (area, recipe)
)
CREATE TABLE scenes (
	area TEXT NOT NULL,
	scene_id TEXT NOT NULL,
	baseline TEXT NOT NULL,
	recipe TEXT NOT NULL,
	acquired_utc TIMESTAMP WITH TIME ZONE NOT NULL,
	"window" TEXT NOT NULL,
	acquisition TEXT NOT NULL,
	state VARCHAR(7) NOT NULL,
	reason TEXT NOT NULL,
	attempts INTEGER NOT NULL,
	first_seen_utc TIMESTAMP WITH TIME ZONE NOT NULL,
	updated_utc TIMESTAMP WITH TIME ZONE NOT NULL,
	seconds FLOAT,
	map_id TEXT,
	PRIMARY KEY (area, scene_id, baseline, recipe),
	CONSTRAINT scene_state CHECK (state IN ('found', 'mapped', 'skipped', 'failed', 'parked')),
	FOREIGN KEY(map_id) REFERENCES maps (map_id)
)
CREATE INDEX scenes_by_window ON scenes (area, recipe, "window")
CREATE TABLE searches (
	area TEXT NOT NULL,
	empty_utc TIMESTAMP WITH TIME ZONE NOT NULL,
	lost INTEGER NOT NULL,
	PRIMARY KEY (area)
)
