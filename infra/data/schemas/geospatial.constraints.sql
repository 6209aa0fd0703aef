ALTER TABLE layer ADD PRIMARY KEY (id);
ALTER TABLE image ADD PRIMARY KEY (key);
ALTER TABLE parcel ADD PRIMARY KEY (id);
ALTER TABLE parcel ADD FOREIGN KEY (layer_id) REFERENCES layer;
ALTER TABLE parcel ADD FOREIGN KEY (image_key) REFERENCES image;
CREATE INDEX ON parcel (owner_person) WHERE owner_person IS NOT NULL;
CREATE INDEX ON parcel (owner_entity) WHERE owner_entity IS NOT NULL;
GRANT USAGE ON SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
GRANT SELECT ON ALL TABLES IN SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
