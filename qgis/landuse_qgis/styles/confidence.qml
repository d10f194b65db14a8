<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology">
  <!-- probability of the class -->
  <pipe>
    <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" classificationMin="0" classificationMax="1">
      <rasterTransparency/>
      <rastershader>
        <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" minimumValue="0" maximumValue="1" labelPrecision="2">
          <item value="0" alpha="255" color="#440154" label="0 %"/>
          <item value="0.25" alpha="255" color="#3b528b" label="25 %"/>
          <item value="0.5" alpha="255" color="#21918c" label="50 %"/>
          <item value="0.75" alpha="255" color="#5ec962" label="75 %"/>
          <item value="1" alpha="255" color="#fde725" label="100 %"/>
        </colorrampshader>
      </rastershader>
    </rasterrenderer>
  </pipe>
</qgis>
